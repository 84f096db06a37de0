# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_hyperv_agent_global_optspecs
    string join \n h/help V/version
end

function __fish_hyperv_agent_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_hyperv_agent_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_hyperv_agent_using_subcommand
    set -l cmd (__fish_hyperv_agent_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -s V -l version -d 'Print version'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "run" -d 'Serve the host\'s requests'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "check-config" -d 'Check the configuration file'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "reload" -d 'Make the running agent reload its configuration'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "devices" -d 'List the VMBus devices that the host offers'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "status" -d 'Show the state of the running agent'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "capture" -d 'Record what host and guest send, or show a recording'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "doctor" -d 'Find what is wrong with this machine, and say what helps'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "kvp" -d 'Read and write the key-value pools shared with the host'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "vss" -d 'Show what a backup would freeze, or rehearse it'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "thaw" -d 'Thaw file systems that are still frozen after a backup'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "serves" -d 'Tell whether the agent serves a service, by the exit status'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "generalize" -d 'Remove what a template of this machine must not have'
complete -c hyperv-agent -n "__fish_hyperv_agent_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand run" -l enable -d 'Switch a service on, overriding the configuration (repeatable)' -r -f -a "fcopy\t''
kvp\t''
vss\t''"
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand run" -l disable -d 'Switch a service off, overriding the configuration (repeatable)' -r -f -a "fcopy\t''
kvp\t''
vss\t''"
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand run" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand run" -l log-level -d 'Least severe level to log [default: as configured, or info]' -r -f -a "error\t'Only failures that keep the agent from its work'
warning\t'Failed requests and other problems, too'
info\t'What the agent does, too'
debug\t'Details of each request, too'
trace\t'Everything'"
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand run" -l log -d 'Where to log [default: stderr on a terminal, syslog otherwise]' -r -f -a "syslog\t'The system log: the journal, or /dev/log'
stderr\t'Standard error'"
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand run" -s n -l no-daemon -d 'Stay in the foreground (the default)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand run" -l daemon -d 'Detach from the terminal and run in the background'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand check-config" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand check-config" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand reload" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand reload" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand devices" -s v -l verbose -d 'Show the VMBus id, the class, the path in sysfs, the NUMA node and the channels with their processors'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand devices" -l json -d 'Print JSON'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand devices" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand status" -l watch -d 'Show the status again every so many seconds, until Ctrl-C' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand status" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand status" -l json -d 'Print JSON'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand status" -l openmetrics -d 'Print OpenMetrics text, for Prometheus'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand status" -l check -d 'Print one line with what is wrong, and exit as monitoring plug-ins do'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand status" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and not __fish_seen_subcommand_from show help" -l service -d 'Capture this service only (repeatable)' -r -f -a "fcopy\t''
kvp\t''
vss\t''"
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and not __fish_seen_subcommand_from show help" -l for -d 'End the capture after this time, such as 90s or 12h' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and not __fish_seen_subcommand_from show help" -l max-size -d 'End the capture before the file is larger, with B, KiB, MiB, GiB or TiB' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and not __fish_seen_subcommand_from show help" -l content -d 'What the file has of private content: placeholders, also checksums of data, or all' -r -f -a "none\t''
hash\t''
full\t''"
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and not __fish_seen_subcommand_from show help" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and not __fish_seen_subcommand_from show help" -l overwrite -d 'Replace FILE if it exists'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and not __fish_seen_subcommand_from show help" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and not __fish_seen_subcommand_from show help" -a "show" -d 'Show a capture as text, one line a message'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and not __fish_seen_subcommand_from show help" -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and __fish_seen_subcommand_from show" -l json -d 'Print JSON, one object a line'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and __fish_seen_subcommand_from show" -l wall-time -d 'Show the time of day in UTC, instead of seconds since the first message'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show a capture as text, one line a message'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand capture; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand doctor" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand doctor" -s v -l verbose -d 'Print a line for each check, too'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand doctor" -l json -d 'Print JSON'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and not __fish_seen_subcommand_from list get set delete ip help" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and not __fish_seen_subcommand_from list get set delete ip help" -f -a "list" -d 'List keys and values, in the order in which the host sees them'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and not __fish_seen_subcommand_from list get set delete ip help" -f -a "get" -d 'Print the value of a key'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and not __fish_seen_subcommand_from list get set delete ip help" -f -a "set" -d 'Set a key to a value'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and not __fish_seen_subcommand_from list get set delete ip help" -f -a "delete" -d 'Delete a key'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and not __fish_seen_subcommand_from list get set delete ip help" -f -a "ip" -d 'Show what the host reads of the network adapters, try what it would set, or undo what it has set'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and not __fish_seen_subcommand_from list get set delete ip help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from list" -l pool -d 'List this pool only, by number or name [default: all pools]' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from list" -l directory -d 'Directory of the pool files [default: as configured, or /var/lib/hyperv]. Pool 2 is the file then, not the facts about this machine' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from list" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from get" -l pool -d 'Search this pool only, by number or name [default: the first of 0, 3, 1, 2, 4 that has the key]' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from get" -l directory -d 'Directory of the pool files [default: as configured, or /var/lib/hyperv]. Pool 2 is the file then, not the facts about this machine' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from get" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from get" -l json -d 'Print pool, key and value as JSON'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from get" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from set" -l pool -d 'Pool to write, by number or name' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from set" -l directory -d 'Directory of the pool files [default: as configured, or /var/lib/hyperv]. Pool 2 is the file then, not the facts about this machine' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from set" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from delete" -l pool -d 'Pool to write, by number or name' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from delete" -l directory -d 'Directory of the pool files [default: as configured, or /var/lib/hyperv]. Pool 2 is the file then, not the facts about this machine' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from delete" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from delete" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -l address -d 'Address with the prefix length of its subnet; can be given several times' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -l gateway -d 'Default gateway; can be given several times' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -l dns -d 'DNS server; can be given several times' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -l family -d 'Families that the host configures [default: those of the addresses]' -r -f -a "ipv4\t''
ipv6\t''
both\t''"
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -l dry-run -d 'Show what setting this configuration would do'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -l dhcp -d 'Configure IPv4 by DHCP'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -l json -d 'Print JSON'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -a "undo" -d 'Undo what the host has configured: restore the files that were there before, and have the network manager load them'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from ip" -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from help" -f -a "list" -d 'List keys and values, in the order in which the host sees them'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from help" -f -a "get" -d 'Print the value of a key'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from help" -f -a "set" -d 'Set a key to a value'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from help" -f -a "delete" -d 'Delete a key'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from help" -f -a "ip" -d 'Show what the host reads of the network adapters, try what it would set, or undo what it has set'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand kvp; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and not __fish_seen_subcommand_from plan rehearse help" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and not __fish_seen_subcommand_from plan rehearse help" -f -a "plan" -d 'Show the hooks that a backup would run, and the file systems that it would freeze'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and not __fish_seen_subcommand_from plan rehearse help" -f -a "rehearse" -d 'Run the hooks, freeze and thaw as for a backup'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and not __fish_seen_subcommand_from plan rehearse help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from plan" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from plan" -l json -d 'Print JSON'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from plan" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from rehearse" -l hold -d 'Seconds for which file systems stay frozen, at most 60' -r
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from rehearse" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from rehearse" -l hooks-only -d 'Run the hooks only, freeze nothing'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from rehearse" -l json -d 'Print JSON'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from rehearse" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from help" -f -a "plan" -d 'Show the hooks that a backup would run, and the file systems that it would freeze'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from help" -f -a "rehearse" -d 'Run the hooks, freeze and thaw as for a backup'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand vss; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand thaw" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand thaw" -l all -d 'Thaw every file system, whoever froze it'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand thaw" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand serves" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand serves" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand generalize" -l config -d 'Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]' -r -F
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand generalize" -l yes -d 'Do it, instead of showing what would be done'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand generalize" -s h -l help -d 'Print help'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "run" -d 'Serve the host\'s requests'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "check-config" -d 'Check the configuration file'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "reload" -d 'Make the running agent reload its configuration'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "devices" -d 'List the VMBus devices that the host offers'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "status" -d 'Show the state of the running agent'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "capture" -d 'Record what host and guest send, or show a recording'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "doctor" -d 'Find what is wrong with this machine, and say what helps'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "kvp" -d 'Read and write the key-value pools shared with the host'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "vss" -d 'Show what a backup would freeze, or rehearse it'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "thaw" -d 'Thaw file systems that are still frozen after a backup'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "serves" -d 'Tell whether the agent serves a service, by the exit status'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "generalize" -d 'Remove what a template of this machine must not have'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and not __fish_seen_subcommand_from run check-config reload devices status capture doctor kvp vss thaw serves generalize help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and __fish_seen_subcommand_from capture" -f -a "show" -d 'Show a capture as text, one line a message'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and __fish_seen_subcommand_from kvp" -f -a "list" -d 'List keys and values, in the order in which the host sees them'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and __fish_seen_subcommand_from kvp" -f -a "get" -d 'Print the value of a key'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and __fish_seen_subcommand_from kvp" -f -a "set" -d 'Set a key to a value'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and __fish_seen_subcommand_from kvp" -f -a "delete" -d 'Delete a key'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and __fish_seen_subcommand_from kvp" -f -a "ip" -d 'Show what the host reads of the network adapters, try what it would set, or undo what it has set'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and __fish_seen_subcommand_from vss" -f -a "plan" -d 'Show the hooks that a backup would run, and the file systems that it would freeze'
complete -c hyperv-agent -n "__fish_hyperv_agent_using_subcommand help; and __fish_seen_subcommand_from vss" -f -a "rehearse" -d 'Run the hooks, freeze and thaw as for a backup'
