//! Denials of SELinux and AppArmor.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::finding::Finding;
use super::machine::{Machine, read};

/// Bytes that are read from the end of the audit log.
const AUDIT_LEN: u64 = 1 << 20;

/// Records that are read of the kernel's log, and bytes of each.
const RECORDS: usize = 20_000;
const RECORD_LEN: usize = 8 << 10;

/// Whether a security module has denied the agent something.
pub(super) fn security_modules(machine: &Machine) -> Vec<Finding> {
    let enforce = read(&machine.roots.sys.join("fs/selinux/enforce"));
    let apparmor = read(&machine.roots.sys.join("module/apparmor/parameters/enabled"));
    let has_apparmor = apparmor.is_some_and(|it| it.trim() == "Y");
    if enforce.is_none() && !has_apparmor {
        return Vec::new();
    }
    let audit = machine.root.join("var/log/audit/audit.log");
    let logs = [tail(&audit), kernel_log(&machine.roots.dev.join("kmsg"))];
    if logs.iter().all(Option::is_none) {
        return vec![Finding::unchecked(
            "neither the audit log nor the kernel's log can be read",
            "run this as root",
        )];
    }
    let lines: Vec<&str> = logs.iter().flatten().flat_map(|log| log.lines()).collect();
    let mut findings = Vec::new();
    let denials = |denied: &dyn Fn(&str) -> bool| {
        // By the name of program, profile or context.
        let of_agent = lines
            .iter()
            .filter(|line| line.contains("hyperv") && denied(line));
        let all: Vec<&str> = of_agent.copied().collect();
        Some((all.len(), (*all.last()?).to_owned()))
    };
    let is_avc = |line: &str| line.contains("avc:") && line.contains("denied");
    if let Some((count, last)) = denials(&is_avc).filter(|_| enforce.is_some()) {
        let text =
            format!("SELinux has denied the agent something ({count} records), last: {last}");
        let remedy = "`ausearch -m avc -c hyperv-agent` shows all; install the module of \
                      packaging/selinux, with `setsebool -P hyperv_agent_copy_files on` for file \
                      copies and `setsebool -P hyperv_agent_configure_network on` for IP \
                      configurations; `audit2allow` allows what is left";
        findings.push(match enforce.as_deref().map(str::trim) {
            Some("0") => Finding::note(format!("{text} (SELinux is permissive)"), remedy),
            _ => Finding::warning(text, remedy),
        });
    }
    let is_apparmor = |line: &str| line.contains("apparmor=\"DENIED\"");
    if let Some((count, last)) = denials(&is_apparmor).filter(|_| has_apparmor) {
        findings.push(Finding::warning(
            format!("AppArmor has denied the agent something ({count} records), last: {last}"),
            "allow it in /etc/apparmor.d/local/ and reload the profile (`apparmor_parser -r`), or \
             `aa-complain` it",
        ));
    }
    findings
}

/// Returns the end of a file.
fn tail(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() {
        return None;
    }
    let start = metadata.len().saturating_sub(AUDIT_LEN);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.take(AUDIT_LEN).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the kernel's log. Each read returns a record.
fn kernel_log(path: &Path) -> Option<String> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    let mut text = String::new();
    let mut record = vec![0; RECORD_LEN];
    for _ in 0..RECORDS {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(len) => text += &String::from_utf8_lossy(record.get(..len).unwrap_or_default()),
            // Older records were overwritten meanwhile.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    Some(text)
}
