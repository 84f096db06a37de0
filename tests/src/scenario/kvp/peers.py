"""Programs beside the one that serves the host, each a separate process.

reporter TIMES POOL NAME   cloud-init's handler reports events; prints the
                           records that it wrote
flock TIMES POOL NAME      counts in a record that is there and appends another,
fcntl TIMES POOL NAME      each time under a lock of this family
boot TIMES POOL NAME       cloud-init's handler in a new boot, which empties the
                           pool, reports so many events

Each looks at the pool with its own eyes, and fails where something is wrong.
"""

import collections
import fcntl
import os
import sys

KEY, RECORD = 512, 2560
COUNT = b"count"


def reporter(times, pool, name):
    from cloudinit.reporting import events
    from cloudinit.reporting.handlers import HyperVKvpReportingHandler

    class Noting(HyperVKvpReportingHandler):
        """The handler as it is, but that it notes what it writes."""

        written = []

        def _append_kvp_item(self, record_data):
            super()._append_kvp_item(record_data)
            self.written.extend(record_data)

    handler = Noting(pool)

    def look():
        found = collections.Counter(
            (item["key"], item["value"]) for item in handler._iterate_kvps(0)
        )
        for record in handler.written:
            item = handler._decode_kvp_item(record)
            there = found[item["key"], item["value"]]
            assert there == 1, f"{item['key']} is there {there} times"

    for number in range(times):
        module = f"{name}/config-{number}-schlüssel"
        handler.publish_event(
            events.ReportingEvent("start", module, f"running {module} with frequency once")
        )
        # Every fourth is too long for one record, and becomes several.
        text = f"{module} went well. " * (120 if number % 4 == 0 else 2)
        handler.publish_event(events.FinishReportingEvent(module, text))
        handler.flush()
        if number % 16 == 0:
            look()
    look()
    sys.stdout.buffer.write(b"".join(handler.written))


def boot(times, pool, name):
    from cloudinit.reporting import events
    from cloudinit.reporting.handlers import HyperVKvpReportingHandler

    # What was there is from the last boot.
    os.utime(pool, (0, 0))
    handler = HyperVKvpReportingHandler(pool)
    assert os.path.getsize(pool) == 0, "the handler has not emptied the pool"
    for number in range(times):
        handler.publish_event(events.ReportingEvent("start", f"{name}-{number}", "boot"))
    handler.flush()


def counter(lock, times, pool, name):
    for number in range(times):
        with open(pool, "r+b", buffering=0) as file:
            lock(file, fcntl.LOCK_EX)
            content = file.read()
            assert len(content) % RECORD == 0, f"{len(content)} bytes are no records"
            starts = range(0, len(content), RECORD)
            keys = [content[start : start + KEY].rstrip(b"\0") for start in starts]
            assert keys.count(COUNT) == 1, f"{COUNT} is there {keys.count(COUNT)} times"
            start = starts[keys.index(COUNT)]
            count = int(content[start + KEY : start + RECORD].rstrip(b"\0"))
            file.seek(start + KEY)
            file.write(str(count + 1).encode())
            # Not in one step: nobody is to see it half-written.
            file.seek(len(content))
            file.write(f"{name}|{number}".encode().ljust(KEY, b"\0"))
            file.write((b"#" * 1000).ljust(RECORD - KEY, b"\0"))


def main(what, times, *arguments):
    if what == "reporter":
        reporter(int(times), *arguments)
    elif what == "boot":
        boot(int(times), *arguments)
    else:
        lock = {"flock": fcntl.flock, "fcntl": fcntl.lockf}[what]
        counter(lock, int(times), *arguments)


main(*sys.argv[1:])
