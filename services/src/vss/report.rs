//! The report of a backup: what is known of it while it is in progress, the log line
//! with fields for monitoring at its end, and the record that `status` shows.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use slog::{Logger, info, warn};

use super::freeze::{FreezeSummary, ThawSummary};
use super::hooks::EndReason;
use crate::backup::{Backup, HookRun, Kind, MOUNT_POINTS, Outcome, ThawedBy};
use crate::counters::ServiceRecord;

/// Logs and counts the reports of backups that have ended, and keeps the last one.
#[derive(Default)]
pub(super) struct Reports {
    record: Arc<ServiceRecord>,
}

impl Reports {
    /// Keeps the last backup in `record` from now on.
    pub(super) fn keep_in(&mut self, record: &Arc<ServiceRecord>) {
        if let Some(backup) = self.record.last_backup() {
            record.end_backup(backup);
        }
        self.record = Arc::clone(record);
    }

    /// Logs and keeps the report of a backup that has ended.
    pub(super) fn end(&self, report: Report, outcome: Outcome, log: &Logger) -> Backup {
        let Report(mut backup) = report;
        backup.outcome = outcome;
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
            info!(log, "{}: {}", event, Line(&backup); fields);
        } else {
            warn!(log, "{}: {}", event, Line(&backup); fields);
        }
        self.record.end_backup(backup.clone());
        backup
    }
}

/// What is known of a backup that is in progress.
pub(super) struct Report(Backup);

impl Report {
    /// Returns the report of a backup that begins now.
    pub(super) fn new(kind: Kind) -> Self {
        Self(Backup {
            kind,
            began: SystemTime::now(),
            frozen_for: None,
            thawed_by: None,
            file_systems: 0,
            mount_points: Vec::new(),
            hooks: Vec::new(),
            outcome: Outcome::Consistent,
        })
    }

    /// Returns the report of a backup that an earlier agent left behind, with so many
    /// file systems frozen.
    pub(super) fn recovered(kind: Kind, file_systems: usize) -> Self {
        let mut report = Self::new(kind);
        report.0.file_systems = file_systems;
        report
    }

    pub(super) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(super) fn is_rehearsal(&self) -> bool {
        self.0.kind != Kind::Backup
    }

    /// Returns the number of file systems that were frozen.
    pub(super) fn file_systems(&self) -> usize {
        self.0.file_systems
    }

    /// Returns where the first of them are mounted.
    pub(super) fn mount_points(&self) -> &[PathBuf] {
        &self.0.mount_points
    }

    pub(super) fn add_hooks(&mut self, runs: impl IntoIterator<Item = HookRun>) {
        self.0.hooks.extend(runs);
    }

    /// Takes over which of the file systems at `mount_points` were frozen.
    pub(super) fn set_frozen(&mut self, mount_points: Vec<PathBuf>, summary: &FreezeSummary) {
        let skipped = summary.skipped.iter().map(|it| &it.mount_point);
        let others: Vec<_> = summary.frozen_before.iter().chain(skipped).collect();
        self.0.file_systems = summary.frozen;
        self.0.mount_points = mount_points
            .into_iter()
            .filter(|path| !others.contains(&path))
            .take(MOUNT_POINTS)
            .collect();
    }

    /// Takes over how long they were frozen, and what ended that.
    pub(super) fn set_thawed(&mut self, thawed: &ThawSummary, end: EndReason) {
        if self.0.file_systems > 0 {
            self.0.frozen_for.get_or_insert(thawed.after);
            self.0.thawed_by.get_or_insert(match (end, self.0.kind) {
                (EndReason::Thawed, Kind::Backup) => ThawedBy::Host,
                (EndReason::Thawed, _) => ThawedBy::Rehearsal,
                (EndReason::TimeLimit, _) => ThawedBy::TimeLimit,
                _ => ThawedBy::Interruption,
            });
        }
    }
}

/// A backup as one line of text.
struct Line<'a>(&'a Backup);

impl Display for Line<'_> {
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

    use super::super::freeze::Skipped;
    use super::*;
    use crate::counters::{BackupOutcomes, Backups, Thaws};

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

    fn summary(frozen: usize, skipped: &[&str]) -> FreezeSummary {
        let skipped = skipped.iter().map(|path| Skipped {
            mount_point: path.into(),
            errno: Errno::OPNOTSUPP,
        });
        FreezeSummary {
            frozen,
            frozen_before: Vec::new(),
            skipped: skipped.collect(),
            took: Duration::ZERO,
            not_locked: None,
        }
    }

    fn thawed(after: Duration) -> ThawSummary {
        ThawSummary {
            thawed: 2,
            after,
            ..ThawSummary::default()
        }
    }

    #[test]
    fn the_end_of_a_backup_is_one_line_with_fields() {
        let lines = Log::default();
        let log = Logger::root(lines.clone(), o!());
        let reports = Reports::default();

        let mut report = Report::new(Kind::Backup);
        report.add_hooks([hook("1", "freeze", None), hook("2", "freeze", None)]);
        let points = ["/", "/srv", "/fat"].map(PathBuf::from).to_vec();
        report.set_frozen(points, &summary(2, &["/fat"]));
        assert_eq!(report.mount_points(), ["/", "/srv"].map(PathBuf::from));
        report.set_thawed(&thawed(Duration::from_micros(1_234_567)), EndReason::Thawed);
        // Nothing is left to thaw.
        report.set_thawed(&thawed(Duration::ZERO), EndReason::Interrupted);
        report.add_hooks([hook("2", "thaw", None), hook("1", "thaw", None)]);
        let ended = reports.end(report, Outcome::Consistent, &log);
        assert_eq!(ended.frozen_for, Some(Duration::from_micros(1_234_567)));
        assert_eq!(ended.hooks.len(), 4);

        let mut report = Report::new(Kind::Rehearsal);
        report.add_hooks([hook("1", "freeze", Some("busy"))]);
        reports.end(report, Outcome::Failed("hook 1 failed".to_owned()), &log);

        let mut report = Report::new(Kind::Backup);
        report.set_frozen(vec!["/".into()], &summary(1, &[]));
        reports.end(report, Outcome::Inconsistent("too late".to_owned()), &log);

        reports.end(Report::new(Kind::Backup), Outcome::Consistent, &log);

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

        let outcomes = |consistent: u64, inconsistent: u64, failed: u64| BackupOutcomes {
            consistent: consistent.into(),
            inconsistent: inconsistent.into(),
            failed: failed.into(),
        };
        let expected = Backups {
            backups: outcomes(2, 1, 0),
            rehearsals: outcomes(0, 0, 1),
            freezes: 1.into(),
            frozen_usec: 1_234_567.into(),
            frozen_usec_longest: 1_234_567.into(),
            frozen_usec_last: 1_234_567.into(),
            thawed_by: Thaws {
                host: 1.into(),
                ..Thaws::default()
            },
            hooks_failed: 1.into(),
        };
        assert_eq!(reports.record.counters.vss, expected);
    }

    #[test]
    fn a_backup_that_ended_before_keep_in_is_kept() {
        let log = Logger::root(slog::Discard, o!());
        let mut reports = Reports::default();
        let found = reports.end(Report::new(Kind::Backup), Outcome::Consistent, &log);
        let record = Arc::<ServiceRecord>::default();
        reports.keep_in(&record);
        assert_eq!(record.last_backup(), Some(found.clone()));
        Reports::default().keep_in(&record);
        assert_eq!(record.last_backup(), Some(found));
        // Each is counted once.
        assert_eq!(record.counters.vss.backups.consistent.get(), 1);
    }
}
