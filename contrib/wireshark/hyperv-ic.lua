-- Wireshark dissector for captures of hyperv-agent: the messages between a Hyper-V host and
-- the integration services of its guest. See README.md beside it.
--
-- SPDX-License-Identifier: MIT OR Apache-2.0
--
-- Offsets are those of docs/protocol.md. A packet is a pseudo header of 24 bytes and then
-- what was sent: on a ring the integration-component header and a body, on a character
-- device the whole message; or an event. Fields have the names of `hyperv-agent capture show
-- --json`. No byte is read that the packet does not have.

local PSEUDO_LEN = 24
local IC_LEN = 28
local MAX_VERSIONS = 100

local HOST, GUEST, EVENT = 1, 2, 3
local FCOPY, KVP, VSS = 1, 2, 3
local RING, DEVICE = 1, 2
local IN_BAND = 6
local NEGOTIATION = 0
local OK = 0
local OPENED, CLOSED = 1, 2

local SERVICES = { [FCOPY] = "fcopy", [KVP] = "kvp", [VSS] = "vss" }

local STATUSES = {
    [0x00000000] = "ok",
    [0x80004005] = "fail",
    [0x80070103] = "no more items",
    [0x80070032] = "not supported",
    [0x80070057] = "invalid argument",
    [0x80041002] = "GUID not found",
    [0x80070050] = "already exists",
    [0x80070070] = "disk full",
}

local TYPES = {
    [0] = "negotiation", "heartbeat", "KVP", "shutdown", "time synchronisation", "VSS",
    "remote desktop", "file copy", "VM session",
}

local EVENTS = {
    "opened", "closed", "the device went away", "the ring is full",
    "the ring has room again", "the kernel refused a reply: it came too late",
    "records were dropped", "the capture begins with this channel open",
}

-- The types of the services' messages.
local MESSAGE_TYPES = { [FCOPY] = 7, [KVP] = 2, [VSS] = 5 }

local OPERATIONS = {
    [FCOPY] = { [0] = "START", "WRITE", "COMPLETE", "CANCEL" },
    [KVP] = { [0] = "GET", "SET", "DELETE", "ENUMERATE", "GET_IP_INFO", "SET_IP_INFO" },
    [VSS] = {
        [0] = "CREATE", "DELETE", "HOT_BACKUP", "GET_DM_INFO", "BACKUP_COMPLETE", "FREEZE",
        "THAW", "AUTO_RECOVER", "QUERY_GUEST_CLUSTER_INFORMATION",
    },
}

-- The first byte of a registration on a character device; that of file copy is all of it.
local REGISTRATIONS = { [FCOPY] = 1, [KVP] = 100, [VSS] = 129 }

local POOLS = { [0] = "external", "guest", "auto", "auto-external", "auto-internal" }
local VALUE_TYPES = {
    [1] = "string", [2] = "expandable string", [4] = "32-bit number",
    [8] = "64-bit number", [11] = "64-bit number",
}
local FLAGS = { [0] = "none", "overwrite", "create path", "overwrite, create path" }
local FAMILIES = { [0] = "none", "IPv4", "IPv6", "IPv4 and IPv6" }

local proto = Proto("hyperv_ic", "Hyper-V Integration Component")

-- The fields, and what each is called in the tree.
local f = {}
local function define(make, names, ...)
    for name, title in pairs(names) do
        f[name] = make("hyperv_ic." .. name, title, ...)
    end
end

define(ProtoField.uint8, { kind = "Kind" }, base.DEC,
    { [HOST] = "message of the host", [GUEST] = "message of the guest", [EVENT] = "event" })
define(ProtoField.uint8, { service = "Service" }, base.DEC, SERVICES)
define(ProtoField.uint8, { transport = "Transport" }, base.DEC,
    { [RING] = "ring", [DEVICE] = "device" })
define(ProtoField.uint32, { event = "Event" }, base.DEC, EVENTS)
define(ProtoField.uint16, { message_type = "Type" }, base.DEC, TYPES)
define(ProtoField.uint32, { status = "Status" }, base.HEX, STATUSES)
define(ProtoField.uint8, { pool = "Pool" }, base.DEC, POOLS)
define(ProtoField.uint32, { value_type = "Type of the value" }, base.DEC, VALUE_TYPES)
define(ProtoField.uint8, { address_family = "Address family" }, base.DEC)
define(ProtoField.uint64, { ["packet.transaction"] = "VMBus transaction id" }, base.DEC)
define(ProtoField.uint64, { offset = "Offset in the file" }, base.DEC)
define(ProtoField.uint64, { size = "Size" }, base.DEC)
define(ProtoField.uint16, {
    ["packet.type"] = "VMBus packet type", ["packet.flags"] = "VMBus packet flags",
    message_size = "Size of the body", framework_count = "Framework versions",
    message_count = "Message versions",
}, base.DEC)
define(ProtoField.uint8, {
    version = "Version of the pseudo header", transaction_id = "Transaction id",
    message_flags = "Flags", dhcp_enabled = "DHCP for IPv4",
}, base.DEC)
define(ProtoField.uint32, {
    operation = "Operation", pipe_kind = "Pipe: kind of packet", pipe_size = "Pipe: size",
    flags = "Flags", backup_kind = "Kind of backup", disk_count = "Disks", index = "Index",
    key_size = "Size of the key", value_size = "Size of the value",
    ipv4_address_count = "IPv4 addresses", ipv6_address_count = "IPv6 addresses",
    ipv4_gateway_count = "IPv4 gateways", ipv6_gateway_count = "IPv6 gateways",
    ipv4_name_server_count = "IPv4 name servers", ipv6_name_server_count = "IPv6 name servers",
    ipv6_prefixes = "IPv6 prefix length", origins = "Origin",
}, base.DEC)
define(ProtoField.string, {
    framework = "Negotiated framework version", message = "Negotiated message version",
    framework_version = "Framework version", message_version = "Message version",
    framework_versions = "Framework version", message_versions = "Message version",
    text = "Text", file_name = "File name", path_name = "Directory", key = "Key",
    value = "Value", adapter_id = "Adapter", addresses = "Addresses", subnets = "Subnets",
    gateways = "Gateways", name_servers = "Name servers", driver_version = "Driver version",
    malformed = "Malformed",
})
define(ProtoField.ipv4, {
    ipv4_addresses = "IPv4 address", ipv4_masks = "IPv4 mask", ipv4_gateways = "IPv4 gateway",
    ipv4_name_servers = "IPv4 name server",
})
define(ProtoField.ipv6, {
    ipv6_addresses = "IPv6 address", ipv6_gateways = "IPv6 gateway",
    ipv6_name_servers = "IPv6 name server",
})
define(ProtoField.bytes, { data = "Data" })
define(ProtoField.framenum, { request_frame = "Request" }, base.NONE, frametype.REQUEST)
define(ProtoField.framenum, { reply_frame = "Reply" }, base.NONE, frametype.RESPONSE)
define(ProtoField.relative_time, { reply_time = "Time to the reply" })

proto.fields = f

local malformed_expert = ProtoExpert.new("hyperv_ic.malformed.expert", "Malformed message",
    expert.group.MALFORMED, expert.severity.WARN)
local status_expert = ProtoExpert.new("hyperv_ic.status.expert", "The guest reports a failure",
    expert.group.RESPONSE_CODE, expert.severity.NOTE)
local event_expert = ProtoExpert.new("hyperv_ic.event.expert", "An event that should not be",
    expert.group.SEQUENCE, expert.severity.WARN)
proto.experts = { malformed_expert, status_expert, event_expert }

local interface_id = Field.new("frame.interface_id")

-- Requests without a reply, by channel and transaction, and what was found at the first pass.
local open, replies, requests

function proto.init()
    open, replies, requests = {}, {}, {}
end

-- Lua 5.3 and later write a whole number that is a float with `.0`.
local function decimal(number)
    return string.format("%d", number)
end

-- The part of a packet that is being decoded: `at` is where the message begins in the packet.
local Message = {}
Message.__index = Message

function Message:has(offset, len)
    return offset + len <= self.len
end

function Message:range(offset, len)
    return self.tvb(self.at + offset, len)
end

function Message:u8(offset)
    return self:has(offset, 1) and self:range(offset, 1):uint() or nil
end

function Message:u32(offset)
    return self:has(offset, 4) and self:range(offset, 4):le_uint() or nil
end

-- Adds a little-endian number, and returns it; nil if the message ends before.
function Message:number(name, offset, len)
    if not self:has(offset, len) then
        return nil
    end
    local range = self:range(offset, len)
    self.tree:add_le(f[name], range)
    if len == 8 then
        return range:le_uint64()
    end
    return range:le_uint()
end

function Message:says(text)
    self.info[#self.info + 1] = text
end

function Message:malformed(why)
    if not self.is_malformed then
        self.is_malformed = true
        self.tree:add(f.malformed, self:range(0, 0), why):set_generated()
        self.tree:add_proto_expert_info(malformed_expert, why)
        self:says('malformed="' .. why .. '"')
    end
end

-- Returns the length of the string at the start of a field, up to its NUL, in bytes, and
-- whether there is a NUL.
local function string_len(bytes, unit)
    for at = 1, #bytes - unit + 1, unit do
        if bytes:byte(at) == 0 and (unit == 1 or bytes:byte(at + 1) == 0) then
            return at - 1, true
        end
    end
    return #bytes - #bytes % unit, false
end

local function is_utf16(bytes)
    local at = 1
    while at + 1 <= #bytes do
        local high = bytes:byte(at + 1)
        at = at + 2
        if high >= 0xd8 and high < 0xdc then
            local low = bytes:byte(at + 1)
            if not low or low < 0xdc or low > 0xdf then
                return false
            end
            at = at + 2
        elseif high >= 0xdc and high < 0xe0 then
            return false
        end
    end
    return true
end

-- Lengths of letters by their first byte, with the least and the most second byte.
local UTF8 = {
    { 0x00, 0x7f, 1 }, { 0xc2, 0xdf, 2, 0x80, 0xbf }, { 0xe0, 0xe0, 3, 0xa0, 0xbf },
    { 0xe1, 0xec, 3, 0x80, 0xbf }, { 0xed, 0xed, 3, 0x80, 0x9f }, { 0xee, 0xef, 3, 0x80, 0xbf },
    { 0xf0, 0xf0, 4, 0x90, 0xbf }, { 0xf1, 0xf3, 4, 0x80, 0xbf }, { 0xf4, 0xf4, 4, 0x80, 0x8f },
}

local function utf8_len(bytes, at)
    local first = bytes:byte(at)
    for _, form in ipairs(UTF8) do
        if first >= form[1] and first <= form[2] then
            for next = 1, form[3] - 1 do
                local byte = bytes:byte(at + next) or 0
                local least, most = 0x80, 0xbf
                if next == 1 then
                    least, most = form[4], form[5]
                end
                if byte < least or byte > most then
                    return nil
                end
            end
            return form[3]
        end
    end
    return nil
end

-- Returns the length of UTF-8 in units of UTF-16; nil if it is no UTF-8.
local function utf8_units(bytes)
    local at, units = 1, 0
    while at <= #bytes do
        local len = utf8_len(bytes, at)
        if not len then
            return nil
        end
        at = at + len
        units = units + (len == 4 and 2 or 1)
    end
    return units
end

-- Adds the string at the start of `len` bytes. Returns its bytes, and whether it has a NUL.
-- What is not Unicode is malformed.
function Message:text(name, offset, len)
    if not self:has(offset, 0) then
        return "", false
    end
    local unit = self.wide and 2 or 1
    local bytes = len > 0 and self.tvb:raw(self.at + offset, len) or ""
    local own, terminated = string_len(bytes, unit)
    if own == 0 then
        self.tree:add(f[name], self:range(offset, 0), "")
    else
        local encoding = self.wide and ENC_UTF_16 + ENC_LITTLE_ENDIAN or ENC_UTF_8 + ENC_NA
        self.tree:add_packet_field(f[name], self:range(offset, own), encoding)
    end
    bytes = bytes:sub(1, own)
    if self.wide and not is_utf16(bytes) or not self.wide and not utf8_units(bytes) then
        self.not_unicode = name
    end
    return bytes, terminated
end

-- The text of a range, for the information column.
function Message:shown(offset, len)
    if len == 0 then
        return '""'
    end
    local range = self:range(offset, len)
    local text = self.wide and range:le_ustring() or range:string(ENC_UTF_8)
    return '"' .. text .. '"'
end

-- Adds the string whose size is in the message.
function Message:sized(name, offset, field_len, size)
    if size > field_len or self.wide and size % 2 ~= 0 then
        self.wrong_size = name
        return nil
    end
    local bytes = self:text(name, offset, size)
    self:says(name .. "=" .. self:shown(offset, #bytes))
    return bytes
end

-- What a decoder refuses in strings.
function Message:check_strings()
    if self.wrong_size then
        self:malformed("invalid size of the " .. self.wrong_size)
    elseif self.not_unicode then
        self:malformed("the " .. self.not_unicode .. " is not valid Unicode")
    end
end

-- Whether the message has the fields of its operation. A message of which data was left out
-- is not too short.
function Message:needs(len)
    if self:has(0, len) then
        return true
    end
    if self.whole_len < len then
        self:malformed("the message of " .. self.len .. " bytes is too short")
    end
    return false
end

function Message:operation(offset, len, code, name)
    local range = self:range(offset, len)
    local item = self.tree:add(f.operation, range, code)
    item:append_text(" (" .. name .. ")")
    if len == 0 then
        item:set_generated()
    end
end

local function in_words(status)
    return STATUSES[status] or string.format("0x%08x", status)
end

function Message:status(offset)
    local status = self:u32(offset)
    if status then
        self:number("status", offset, 4)
        if status ~= OK then
            self.tree:add_proto_expert_info(status_expert, "Status: " .. in_words(status))
        end
    end
    return status
end

-- File copy. Protocol section 5.

local function fcopy_fields(m, code, is_request)
    if code == 0 and is_request then
        if not m:needs(1088) then
            return
        end
        local file, has_nul = m:text("file_name", 36, 520)
        local directory, has_too = m:text("path_name", 556, 520)
        m:says("file_name=" .. m:shown(36, #file))
        m:says("path_name=" .. m:shown(556, #directory))
        local flags = m:u32(1076)
        m.tree:add_le(f.flags, m:range(1076, 4)):append_text(" (" .. FLAGS[flags % 4] .. ")")
        local size = m:number("size", 1080, 8)
        m:says("size=" .. tostring(size))
        if not has_nul or not has_too then
            m:malformed("a name has no NUL at its end")
        end
        m:check_strings()
    elseif code == 1 then
        -- A reply to a message that is too short is too short as well.
        if not (is_request and m:needs(52) or m:has(0, 52)) then
            return
        end
        m:says("offset=" .. tostring(m:number("offset", 40, 8)))
        local size = m:number("size", 48, 4)
        m:says("size=" .. decimal(size))
        local len = math.min(size, 6144, m.len - 52)
        m.tree:add(f.data, m:range(52, len))
        if is_request and (size > 6144 or size > m.whole_len - 52) then
            m:malformed("it states " .. decimal(size) .. " bytes of data")
        end
    end
end

-- Key-value pairs and IP configurations. Protocol section 7.

local function kvp_value(m, at)
    local value_type = m:number("value_type", at, 4)
    local size = m:number("value_size", at + 8, 4)
    local value = at + 12 + 512
    local is_text = value_type == 1 or value_type == 2
    if not m.wide or is_text then
        return m:sized("value", value, 2048, size)
    elseif value_type == 4 or value_type == 8 or value_type == 11 then
        local range = m:range(value, value_type == 4 and 4 or 8)
        local number = value_type == 4 and decimal(range:le_uint()) or tostring(range:le_uint64())
        m.tree:add(f.value, range, number)
        m:says("value=" .. number)
    else
        m.unknown_type = value_type
    end
    return nil
end

local function kvp_key(m, at, key)
    return m:sized("key", key, 512, m:number("key_size", at, 4))
end

-- Checks what the guest refuses of a SET: what the host could not read back.
local function kvp_long(m, name, bytes, size)
    if not bytes then
        return
    end
    local units, limit
    if m.wide then
        units, limit = #bytes / 2, size / 2 - 1
    else
        units, limit = utf8_units(bytes) or 0, size / 2 - 2
    end
    if units > limit then
        m:malformed("the " .. name .. " is too long for a reply")
    end
end

local function kvp_type(m)
    if m.unknown_type then
        m:malformed("unknown type of a value: " .. decimal(m.unknown_type))
    end
end

local function kvp_pool(m)
    local pool = m:number("pool", 1, 1)
    m:says("pool=" .. (POOLS[pool] or pool and decimal(pool) or "?"))
    return pool
end

local function list(m, name, offset, element, most, count)
    if count > most then
        m:malformed("invalid count: " .. decimal(count) .. ", at most " .. most)
        return
    end
    for index = 0, count - 1 do
        local range = m:range(offset + index * element, element)
        -- Addresses are in network order, numbers are not.
        if name == "ipv6_prefixes" or name == "origins" then
            m.tree:add_le(f[name], range)
        else
            m.tree:add(f[name], range)
        end
    end
end

local function kvp_adapter(m, at)
    local bytes = m:text("adapter_id", at, 256)
    m:says("adapter_id=" .. m:shown(at, #bytes))
    local family = m:u8(at + 256)
    m.tree:add(f.address_family, m:range(at + 256, 1))
        :append_text(" (" .. FAMILIES[family % 4] .. ")")
end

-- The IP configuration: all of it, or only which adapter is meant.
local function kvp_ip_info(m, is_whole)
    if m.is_binary then
        if not m:needs(3716) then
            return
        end
        if not is_whole then
            kvp_adapter(m, 28)
            m:check_strings()
            return
        end
        local v4 = m:number("ipv4_address_count", 4, 4)
        local v6 = m:number("ipv6_address_count", 8, 4)
        local v4_gateways = m:number("ipv4_gateway_count", 12, 4)
        local v6_gateways = m:number("ipv6_gateway_count", 16, 4)
        local v4_servers = m:number("ipv4_name_server_count", 20, 4)
        local v6_servers = m:number("ipv6_name_server_count", 24, 4)
        kvp_adapter(m, 28)
        m:number("dhcp_enabled", 285, 1)
        list(m, "ipv4_addresses", 288, 4, 64, v4)
        list(m, "ipv6_addresses", 544, 16, 64, v6)
        list(m, "ipv4_masks", 1568, 4, 64, v4)
        list(m, "ipv6_prefixes", 1824, 4, 64, v6)
        list(m, "ipv4_gateways", 2080, 4, 5, v4_gateways)
        list(m, "ipv6_gateways", 2100, 16, 5, v6_gateways)
        list(m, "ipv4_name_servers", 2180, 4, 64, v4_servers)
        list(m, "ipv6_name_servers", 2436, 16, 64, v6_servers)
        if v4 + v6 <= 128 then
            list(m, "origins", 3460, 2, 128, v4 + v6)
        end
        m:says("ipv4_address_count=" .. decimal(v4) .. " ipv6_address_count=" .. decimal(v6))
    else
        local at = m.wide and 2 or 4
        if not m:needs(at + 7426) then
            return
        end
        kvp_adapter(m, at)
        if is_whole then
            m:number("dhcp_enabled", at + 257, 1)
            local addresses = m:text("addresses", at + 258, 2048)
            m:says("addresses=" .. m:shown(at + 258, #addresses))
            m:text("subnets", at + 2306, 2048)
            m:text("gateways", at + 4354, 1024)
            m:text("name_servers", at + 5378, 2048)
        end
    end
    m:check_strings()
end

local function kvp_request(m, code)
    local pool = code < 4 and kvp_pool(m) or 0
    if code == 0 or code == 1 then
        if not m:needs(2576) then
            return
        end
        local key = kvp_key(m, 8, 16)
        if code == 1 then
            local value = kvp_value(m, 4)
            m:check_strings()
            kvp_long(m, "key", key, 512)
            kvp_long(m, "value", value, 2048)
        end
    elseif code == 2 then
        if not m:needs(520) then
            return
        end
        kvp_key(m, 4, 8)
    elseif code == 3 then
        if not m:needs(2580) then
            return
        end
        m:says("index=" .. decimal(m:number("index", 4, 4)))
    else
        kvp_ip_info(m, code == 5)
    end
    m:check_strings()
    if not POOLS[pool] then
        m:malformed("unknown pool " .. decimal(pool))
    end
    kvp_type(m)
end

-- The data of a reply that is no failure.
local function kvp_reply(m, code)
    local on_device = not m.wide
    if code == 0 then
        -- On a character device the value lies where ENUMERATE has it.
        if not m:needs(on_device and 2580 or 2576) then
            return
        end
        if on_device then
            kvp_value(m, 8)
        else
            kvp_pool(m)
            kvp_key(m, 8, 16)
            kvp_value(m, 4)
        end
    elseif code == 3 then
        if not on_device then
            kvp_pool(m)
        end
        if not m:needs(2580) then
            return
        end
        m:number("index", 4, 4)
        kvp_key(m, 12, 20)
        kvp_value(m, 8)
    elseif code == 4 then
        kvp_ip_info(m, true)
    end
    m:check_strings()
    kvp_type(m)
end

-- Backups. Protocol section 8.

local function vss_request(m, code)
    local needed = (code == 2 or code == 3) and 12 or 8
    if code == 5 then
        m:number("backup_kind", 8, 4)
        m:number("flags", 12, 4)
        m:number("disk_count", 16, 4)
    elseif code == 2 or code == 3 or code == 4 or code == 6 then
        m:number("flags", 8, 4)
    end
    m:needs(needed)
    -- No Linux guest takes this one.
    if code == 8 then
        m:malformed("unknown operation 8")
    end
end

-- The number of the operation of a message that begins with one.
local function operation_code(m, service)
    if service ~= FCOPY then
        return m:u8(0)
    end
    return m:has(0, 36) and m:u32(0) or nil
end

local function request_fields(m, service, code)
    if not OPERATIONS[service][code] then
        m:malformed("unknown operation " .. decimal(code))
    elseif service == FCOPY then
        fcopy_fields(m, code, true)
    elseif service == KVP then
        kvp_request(m, code)
    else
        vss_request(m, code)
    end
end

local function reply_fields(m, service, code, status)
    if service == FCOPY then
        -- The data is in a reply, too, which is the request with a status.
        if m.wide then
            fcopy_fields(m, code, false)
        end
    elseif status == OK and service == KVP then
        kvp_reply(m, code)
    elseif status == OK and (code == 2 or code == 3) then
        m:number("flags", 8, 4)
    end
end

-- Requests and replies.

-- Says which frame answers which. The key is that of the channel and the transaction.
local function match(m, pinfo, key, is_request)
    local number = pinfo.number
    if not pinfo.visited then
        if is_request then
            open[key] = { number = number, time = pinfo.abs_ts, operation = m.code }
        else
            local request = open[key]
            open[key] = nil
            if request then
                replies[request.number] = number
                requests[number] = request
            end
        end
    end
    local none = m.tvb(0, 0)
    if is_request and replies[number] then
        m.tree:add(f.reply_frame, none, replies[number]):set_generated()
    elseif not is_request and requests[number] then
        local request = requests[number]
        m.tree:add(f.request_frame, none, request.number):set_generated()
        local delta = pinfo.abs_ts - request.time
        if delta >= 0 then
            local seconds = math.floor(delta)
            local time = NSTime.new(seconds, math.floor((delta - seconds) * 1e9))
            m.tree:add(f.reply_time, none, time):set_generated()
        end
    end
    return requests[number]
end

local function version(range)
    return string.format("%d.%d", range(0, 2):le_uint(), range(2, 2):le_uint())
end

local function add_version(tree, field, range)
    tree:add(field, range, version(range))
    return version(range)
end

-- A negotiation. Protocol section 4.4.
local function negotiation(m, is_request)
    if not m:has(0, 8) then
        if is_request then
            m:malformed("a negotiation without counts")
        end
        return
    end
    local frameworks = m:range(0, 2):le_uint()
    local messages = m:range(2, 2):le_uint()
    if frameworks + messages > MAX_VERSIONS or not m:has(8, 4 * (frameworks + messages)) then
        -- A reply that refuses a malformed offer has the offer.
        if is_request then
            m:malformed("it states more versions than there are")
        end
        return
    end
    m:number("framework_count", 0, 2)
    m:number("message_count", 2, 2)
    local said = { "framework_versions=", "message_versions=" }
    for list, count in ipairs({ frameworks, messages }) do
        local field = list == 1 and f.framework_versions or f.message_versions
        local first = list == 1 and 0 or frameworks
        for index = first, first + count - 1 do
            local range = m:range(8 + 4 * index, 4)
            local comma = index > first and "," or ""
            said[list] = said[list] .. comma .. add_version(m.tree, field, range)
        end
        m:says(said[list])
    end
end

-- A message over a ring.
local function ring_message(m, pinfo, service, is_request, key)
    if not m:has(0, IC_LEN) then
        m:malformed("the message of " .. m.len .. " bytes is shorter than its headers")
        return
    end
    if m.packet_type ~= IN_BAND then
        m:says("packet")
        return
    end
    m:number("pipe_kind", 0, 4)
    m:number("pipe_size", 4, 4)
    add_version(m.tree, f.framework_version, m:range(8, 4))
    local kind = m:number("message_type", 12, 2)
    add_version(m.tree, f.message_version, m:range(14, 4))
    local stated = m:number("message_size", 18, 2)
    -- That of a request means nothing.
    local status = m:u32(20)
    if not is_request or status ~= OK then
        m:status(20)
    end
    m:number("transaction_id", 24, 1)
    m:number("message_flags", 25, 1)
    if is_request and kind ~= NEGOTIATION and stated > m.whole_len - IC_LEN then
        m:malformed("the header states a body of " .. decimal(stated) .. " bytes")
    end
    if kind ~= NEGOTIATION and kind ~= MESSAGE_TYPES[service] then
        m:says("message of another service")
        return
    end

    local body = setmetatable({
        tvb = m.tvb, tree = m.tree, info = m.info, at = m.at + IC_LEN, len = m.len - IC_LEN,
        whole_len = m.whole_len - IC_LEN, wide = true,
    }, Message)
    body.is_binary = m.message_major >= 5
    local name
    if kind == NEGOTIATION then
        name = "NEGOTIATE"
        table.insert(m.info, 1, name)
        negotiation(body, is_request)
    else
        local code = operation_code(body, service)
        name = code and OPERATIONS[service][code] or "unknown"
        table.insert(m.info, 1, name)
        if code then
            body.code = code
            body:operation(0, service == FCOPY and 4 or 1, code, name)
        end
        if not is_request then
            if code then
                reply_fields(body, service, code, status)
            end
        elseif code then
            request_fields(body, service, code)
        else
            body:malformed("the message has no operation")
        end
    end
    if not is_request then
        m:says("status=" .. in_words(status))
    end
    m.code = body.code
    match(m, pinfo, key, is_request)
end

-- A message over a character device.
local function device_message(m, pinfo, service, is_request, key)
    m.wide = false
    local first = service == FCOPY and m:u32(0) or service ~= FCOPY and m:u8(0) or nil
    local first_len = service == FCOPY and 4 or 1
    local registers = first == REGISTRATIONS[service] and (service ~= FCOPY or m.len == 4)
    if is_request and registers then
        m:operation(0, first_len, first, "REGISTERED")
        m:says("REGISTERED")
        if service == KVP and m:has(4, 1) then
            local version = m:text("driver_version", 4, m.len - 4)
            m:says("driver_version=" .. m:shown(4, #version))
        end
        return
    end
    if is_request then
        local code = operation_code(m, service)
        m.code = code
        local name = code and OPERATIONS[service][code] or "unknown"
        m:says(name)
        if code then
            m:operation(0, first_len, code, name)
            request_fields(m, service, code)
        else
            m:malformed("the message has no operation")
        end
        match(m, pinfo, key, true)
        return
    end
    local waiting = pinfo.visited and requests[pinfo.number] or not pinfo.visited and open[key]
    if registers and not (waiting and waiting.operation) then
        m:operation(0, first_len, first, "REGISTER")
        m:says("REGISTER")
        return
    end
    local request = match(m, pinfo, key, false)
    local code = request and request.operation
    local name = code and OPERATIONS[service][code] or "unknown"
    m:says(name)
    if code then
        m:operation(0, 0, code, name)
    end
    local status = m:status(0)
    if status and code then
        reply_fields(m, service, code, status)
    end
    if status then
        m:says("status=" .. in_words(status))
    end
end

local function event(m, channel)
    local code = m:u32(0)
    if not code then
        m:malformed("an event without a code")
        return
    end
    m.tree:add_le(f.event, m:range(0, 4))
    if code == OPENED or code == CLOSED then
        open[channel] = nil
    end
    m:says(EVENTS[code] or "unknown event " .. decimal(code))
    if m.len > 4 then
        local bytes = m:text("text", 4, m.len - 4)
        m:says("text=" .. m:shown(4, #bytes))
    end
    if code == 3 or code == 4 or code == 6 or code == 7 then
        m.tree:add_proto_expert_info(event_expert, EVENTS[code])
    end
end

function proto.dissector(tvb, pinfo, root)
    pinfo.cols.protocol:set("Hyper-V IC")
    local tree = root:add(proto, tvb())
    local m = setmetatable({
        tvb = tvb, tree = tree, info = {}, at = 0, len = tvb:len(), whole_len = tvb:reported_len(),
    }, Message)
    if not m:has(0, PSEUDO_LEN) then
        m:malformed("the packet of " .. m.len .. " bytes is shorter than its pseudo header")
        pinfo.cols.info:set(table.concat(m.info, " "))
        return
    end
    local layout = m:number("version", 0, 1)
    local kind = m:number("kind", 1, 1)
    local service = m:number("service", 2, 1)
    local transport = m:number("transport", 3, 1)
    if layout ~= 1 or kind < HOST or kind > EVENT or not SERVICES[service]
        or transport < RING or transport > DEVICE then
        m:malformed("unknown pseudo header")
        pinfo.cols.info:set(table.concat(m.info, " "))
        return
    end
    -- Elsewhere these are 0.
    if transport == RING and kind ~= EVENT then
        m.packet_type = m:number("packet.type", 4, 2)
        m:number("packet.flags", 6, 2)
        m:number("packet.transaction", 8, 8)
    end
    if tvb(16, 8):uint64() ~= UInt64(0) then
        add_version(tree, f.framework, tvb(16, 4))
        add_version(tree, f.message, tvb(20, 4))
    end
    m.message_major = tvb(20, 2):le_uint()
    m.at, m.len, m.whole_len = PSEUDO_LEN, m.len - PSEUDO_LEN, m.whole_len - PSEUDO_LEN

    local ends = { [HOST] = { "host", "guest" }, [GUEST] = { "guest", "host" } }
    if ends[kind] then
        pinfo.cols.src:set(ends[kind][1])
        pinfo.cols.dst:set(ends[kind][2])
    end
    local id = interface_id()
    local channel = service .. "/" .. (id and tostring(id.value) or "")
    if kind == EVENT then
        event(m, channel)
    elseif transport == RING then
        local key = channel .. "/" .. tostring(tvb(8, 8):le_uint64())
        ring_message(m, pinfo, service, kind == HOST, key)
    else
        device_message(m, pinfo, service, kind == HOST, channel)
    end
    local says = SERVICES[service] .. " " .. table.concat(m.info, " ")
    tree:append_text(", " .. says)
    pinfo.cols.info:set(says)
end

DissectorTable.get("wtap_encap"):add((wtap_encaps or wtap).USER0, proto)
