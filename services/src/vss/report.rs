//! What is known of the backup that is under way, and how its end is told: one
//! log line with fields that monitoring can match, and the record that `status`
//! shows.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use slog::{Logger, info, warn};

use super::freeze::{FreezeSummary, Thawed};
use super::open::Opened;
use crate::backup::{Backup, HookRun, Kind, LastBackup, MOUNT_POINTS, Outcome};

/// The backup that is under way, if one is, and the last one.
#[derive(Default)]
pub(super) struct Report {
    underway: Option<Backup>,
    last: Arc<LastBackup>,
}

impl Report {
    /// A backup begins.
    pub(super) fn begin(&mut self, kind: Kind) {
        self.underway = Some(Backup {
            kind,
            began: SystemTime::now(),
            frozen_for: None,
            file_systems: 0,
            mount_points: Vec::new(),
            hooks: Vec::new(),
            outcome: Outcome::Consistent,
        });
    }

    /// Whether that is a rehearsal.
    pub(super) fn is_rehearsal(&self) -> bool {
        let backup = self.underway.as_ref();
        backup.is_some_and(|it| it.kind != Kind::Backup)
    }

    /// The last backup is kept there from now on.
    pub(super) fn keep_in(&mut self, last: &Arc<LastBackup>) {
        if let Some(backup) = self.last.get() {
            last.set(backup);
        }
        self.last = Arc::clone(last);
    }

    /// Hooks have run.
    pub(super) fn hooks(&mut self, runs: Vec<HookRun>) {
        if let Some(backup) = &mut self.underway {
            backup.hooks.extend(runs);
        }
    }

    /// File systems were found frozen that an agent before this one has left.
    pub(super) fn found(&mut self, file_systems: usize) {
        if let Some(backup) = &mut self.underway {
            backup.file_systems = file_systems;
        }
    }

    /// File systems are frozen, those of `mount_points` but for what `summary` says
    /// of them.
    pub(super) fn frozen(&mut self, mount_points: Vec<PathBuf>, summary: &FreezeSummary) {
        if let Some(backup) = &mut self.underway {
            let left_out = summary.left_out.iter().map(|it| &it.mount_point);
            let others: Vec<_> = summary.frozen_before.iter().chain(left_out).collect();
            let ours = |path: &PathBuf| !others.contains(&path);
            backup.file_systems = summary.frozen;
            backup.mount_points = mount_points
                .into_iter()
                .filter(ours)
                .take(MOUNT_POINTS)
                .collect();
        }
    }

    /// They are thawed.
    pub(super) fn thawed(&mut self, thawed: &Thawed) {
        if let Some(backup) = &mut self.underway {
            if backup.file_systems > 0 {
                backup.frozen_for.get_or_insert(thawed.after);
            }
        }
    }

    /// How many file systems are frozen, and where the first of them are mounted.
    pub(super) fn what_is_frozen(&self) -> (usize, Vec<PathBuf>) {
        let backup = self.underway.as_ref();
        backup
            .map(|it| (it.file_systems, it.mount_points.clone()))
            .unwrap_or_default()
    }

    /// The backup is over, if one was under way: it is logged and kept, and given
    /// back.
    pub(super) fn end(&mut self, outcome: Outcome, log: &Logger) -> Option<Backup> {
        let mut backup = self.underway.take()?;
        backup.outcome = outcome;
        tell(&backup, log);
        self.last.set(backup.clone());
        Some(backup)
    }
}

/// Where file systems are mounted that are about to be frozen.
pub(super) fn mount_points(opened: &[Opened]) -> Vec<PathBuf> {
    let points = opened.iter().map(|opened| opened.mount_point.clone());
    points.collect()
}

/// Logs the end of a backup.
fn tell(backup: &Backup, log: &Logger) {
    let event = match backup.kind {
        Kind::Backup => "backup",
        Kind::Rehearsal | Kind::HooksOnly => "rehearsal",
    };
    let outcome = match backup.outcome {
        Outcome::Consistent => "consistent",
        Outcome::Inconsistent(_) => "inconsistent",
        Outcome::Failed(_) => "failed",
    };
    let frozen = backup.frozen_for.unwrap_or_default().as_micros();
    let fields = slog::o!(
        "HYPERV_EVENT" => event,
        "HYPERV_OUTCOME" => outcome,
        "HYPERV_FROZEN_USEC" => frozen.to_string(),
        "HYPERV_FILE_SYSTEMS" => backup.file_systems,
        "HYPERV_HOOKS" => backup.hooks_run(),
        "HYPERV_HOOKS_FAILED" => backup.hooks_failed(),
    );
    if backup.outcome == Outcome::Consistent && backup.hooks_failed() == 0 {
        info!(log, "{}: {}", event, Words(backup); fields);
    } else {
        warn!(log, "{}: {}", event, Words(backup); fields);
    }
}

/// A backup in a line.
struct Words<'a>(&'a Backup);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(backup) = self;
        let consistent = backup.outcome == Outcome::Consistent;
        match (&backup.outcome, backup.kind) {
            (Outcome::Consistent, Kind::HooksOnly) => f.write_str("nothing frozen")?,
            (Outcome::Consistent, _) => f.write_str("consistent")?,
            (Outcome::Inconsistent(_), _) => f.write_str("not consistent")?,
            (Outcome::Failed(_), _) => f.write_str("failed")?,
        }
        match (backup.file_systems, backup.frozen_for) {
            (0, _) if backup.kind == Kind::HooksOnly || !consistent => {}
            (count, None) => write!(f, ", file systems {count}")?,
            (count, Some(time)) => {
                let seconds = time.as_secs_f64();
                write!(f, ", file systems {count}, frozen for {seconds:.3} s")?;
            }
        }
        if backup.hooks_run() > 0 {
            write!(f, ", hooks {}", backup.hooks_run())?;
        }
        if backup.hooks_failed() > 0 {
            write!(f, " ({} failed)", backup.hooks_failed())?;
        }
        match &backup.outcome {
            Outcome::Consistent => Ok(()),
            Outcome::Inconsistent(why) | Outcome::Failed(why) => write!(f, ": {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use rustix::io::Errno;
    use slog::{Drain, Key, Level, Never, OwnedKVList, Record, Serializer, o};

    use super::super::freeze::LeftOut;
    use super::*;

    /// The records as they are logged: level, text and fields.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    struct Fields(Vec<String>);

    impl Serializer for Fields {
        fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
            let name = key.strip_prefix("HYPERV_").unwrap_or("?");
            self.0.push(format!("{name}={value}"));
            Ok(())
        }
    }

    impl Drain for Log {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            let mut fields = Fields(Vec::new());
            slog::KV::serialize(&record.kv(), record, &mut fields).unwrap();
            fields.0.sort();
            let level = if record.level() == Level::Info {
                ""
            } else {
                "warning: "
            };
            let line = format!("{level}{} [{}]", record.msg(), fields.0.join(" "));
            self.0.lock().unwrap().push(line);
            Ok(())
        }
    }

    fn hook(name: &str, action: &'static str, failure: Option<&str>) -> HookRun {
        HookRun {
            name: name.to_owned(),
            action,
            took: Duration::from_millis(20),
            failure: failure.map(str::to_owned),
        }
    }

    fn summary(frozen: usize, left_out: &[&str]) -> FreezeSummary {
        let left_out = left_out.iter().map(|path| LeftOut {
            mount_point: path.into(),
            errno: Errno::OPNOTSUPP,
        });
        FreezeSummary {
            frozen,
            frozen_before: Vec::new(),
            left_out: left_out.collect(),
            took: Duration::ZERO,
            not_locked: None,
        }
    }

    fn thawed(after: Duration) -> Thawed {
        Thawed {
            thawed: 2,
            after,
            ..Thawed::default()
        }
    }

    #[test]
    fn the_end_of_a_backup_is_one_line_with_fields() {
        let lines = Log::default();
        let log = Logger::root(lines.clone(), o!());
        let mut report = Report::default();
        assert_eq!(report.end(Outcome::Consistent, &log), None);

        report.begin(Kind::Backup);
        report.hooks(vec![hook("1", "freeze", None), hook("2", "freeze", None)]);
        let points = ["/", "/srv", "/fat"].map(PathBuf::from).to_vec();
        report.frozen(points, &summary(2, &["/fat"]));
        assert_eq!(report.what_is_frozen().1, ["/", "/srv"].map(PathBuf::from));
        report.thawed(&thawed(Duration::from_micros(1_234_567)));
        // Nothing is left to thaw.
        report.thawed(&thawed(Duration::ZERO));
        report.hooks(vec![hook("2", "thaw", None), hook("1", "thaw", None)]);
        let ended = report.end(Outcome::Consistent, &log).unwrap();
        assert_eq!(ended.frozen_for, Some(Duration::from_micros(1_234_567)));
        assert_eq!(ended.hooks.len(), 4);

        report.begin(Kind::Rehearsal);
        report.hooks(vec![hook("1", "freeze", Some("busy"))]);
        report.end(Outcome::Failed("hook 1 failed".to_owned()), &log);

        report.begin(Kind::Backup);
        report.frozen(vec!["/".into()], &summary(1, &[]));
        report.end(Outcome::Inconsistent("too late".to_owned()), &log);

        report.begin(Kind::Backup);
        report.end(Outcome::Consistent, &log);

        let expected = [
            "backup: consistent, file systems 2, frozen for 1.235 s, hooks 2 [EVENT=backup \
             FILE_SYSTEMS=2 FROZEN_USEC=1234567 HOOKS=2 HOOKS_FAILED=0 OUTCOME=consistent]",
            "warning: rehearsal: failed, hooks 1 (1 failed): hook 1 failed \
             [EVENT=rehearsal FILE_SYSTEMS=0 FROZEN_USEC=0 HOOKS=1 HOOKS_FAILED=1 \
             OUTCOME=failed]",
            "warning: backup: not consistent, file systems 1: too late [EVENT=backup \
             FILE_SYSTEMS=1 FROZEN_USEC=0 HOOKS=0 HOOKS_FAILED=0 OUTCOME=inconsistent]",
            "backup: consistent, file systems 0 [EVENT=backup FILE_SYSTEMS=0 FROZEN_USEC=0 HOOKS=0 \
             HOOKS_FAILED=0 OUTCOME=consistent]",
        ];
        assert_eq!(*lines.0.lock().unwrap(), expected);
    }

    #[test]
    fn what_a_service_found_before_it_was_told_where_to_keep_it_is_kept() {
        let log = Logger::root(slog::Discard, o!());
        let mut report = Report::default();
        report.begin(Kind::Backup);
        let found = report.end(Outcome::Consistent, &log);
        let last = Arc::new(LastBackup::default());
        report.keep_in(&last);
        assert_eq!(last.get(), found);
        Report::default().keep_in(&last);
        assert_eq!(last.get(), found);
    }
}
