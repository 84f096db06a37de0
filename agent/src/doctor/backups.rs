//! What a backup would freeze, and the hooks that it would run.

use std::time::Duration;

use hyperv_services::timeouts::{FREEZE_START, HOOKS_BEFORE_FREEZE, KERNEL_FREEZE};
use hyperv_services::vss::hooks::{self, OnFailure};
use hyperv_services::vss::plan::{self, Plan, PlanError, Reason};
use hyperv_services::vss::prepare;

use super::finding::{Finding, Level};
use super::machine::Machine;

fn plan(machine: &Machine) -> Result<Plan, PlanError> {
    let config = &machine.config.service.vss;
    // Only root may open what a backup freezes.
    match machine.is_root {
        true => Ok(prepare::plan_and_open(config)?.plan),
        false => plan::make(config),
    }
}

fn no_plan(error: PlanError) -> Vec<Finding> {
    vec![Finding::unchecked(
        format!("{:#}", anyhow::Error::from(error)),
        "",
    )]
}

/// Whether all file systems that a backup needs can be frozen.
pub(super) fn file_systems(machine: &Machine) -> Vec<Finding> {
    if !machine.is_on("vss") {
        return Vec::new();
    }
    let plan = match plan(machine) {
        Ok(plan) => plan,
        Err(error) => return no_plan(error),
    };
    let mut findings = Vec::new();
    for blocked in &plan.blocked {
        let point = blocked.file_system.mount_point().display();
        findings.push(Finding::error(
            format!(
                "every backup fails: {point} cannot be frozen: {}",
                blocked.reason
            ),
            format!(
                "make it reachable, or list it: `mount-points = [\"{point}\"]` in [vss.exclude]"
            ),
        ));
    }
    if plan.freeze.is_empty() && plan.blocked.is_empty() {
        findings.push(Finding::warning(
            "a backup would freeze no file system",
            "`hyperv-agent vss plan` says why; see [vss.include] and [vss.exclude]",
        ));
    }
    let mut outside = Vec::new();
    for left_out in &plan.left_out {
        let file_system = &left_out.file_system;
        let point = file_system.mount_point().display();
        let reason = &left_out.reason;
        match reason {
            reason if reason.is_fault() => findings.push(Finding::error(
                format!("{point} is in no backup: {reason}"),
                "repair it (`dmesg`, fsck or xfs_repair), and mount it again",
            )),
            Reason::Unsupported | Reason::Fuse | Reason::Zfs | Reason::Network => {
                outside.push(format!("{point} ({}: {reason})", file_system.kind));
            }
            // In the backup by the file system below, of no matter, or on purpose.
            _ => {}
        }
    }
    if !outside.is_empty() {
        findings.push(Finding::note(
            format!("not frozen in a backup: {}", outside.join(", ")),
            "use a file system that can be frozen (ext4, XFS, btrfs) for data that must be \
             consistent, or have a hook quiesce what writes there",
        ));
    }
    let unmatched = plan.unmatched.iter();
    findings.extend(unmatched.map(|it| {
        Finding::warning(
            it.to_string(),
            "correct the pattern; `hyperv-agent vss plan` shows the names",
        )
    }));
    if plan.namespaces_cut {
        findings.push(Finding::warning(
            Plan::NAMESPACES_CUT,
            "set `other-namespaces = false` in [vss] if they are not meant",
        ));
    }
    findings
}

/// File systems that are hidden under another mount.
pub(super) fn hidden_mounts(machine: &Machine) -> Vec<Finding> {
    if !machine.is_on("vss") {
        return Vec::new();
    }
    let plan = match plan(machine) {
        Ok(plan) => plan,
        Err(error) => return no_plan(error),
    };
    let hidden = plan.freeze.iter().filter_map(|file_system| {
        let cover = file_system.mounts.first()?.hidden_under.as_deref()?;
        Some((file_system.mount_point().display(), cover.display()))
    });
    hidden
        .map(|(point, cover)| {
            Finding::note(
                format!("the file system at {point} is hidden under {cover}; it is frozen, too"),
                format!("if that is not meant: `umount {cover}`"),
            )
        })
        .collect()
}

/// Whether all hooks will run.
pub(super) fn hooks(machine: &Machine) -> Vec<Finding> {
    if !machine.is_on("vss") {
        return Vec::new();
    }
    let config = &machine.config.service.vss.hooks;
    let (level, effect) = match config.on_failure {
        OnFailure::Stop => (Level::Error, "every backup fails"),
        OnFailure::GoOn => (Level::Warning, "backups go on without it"),
    };
    let refused = |error: hooks::HookError| {
        Finding::new(
            level,
            format!("{effect}: {:#}", anyhow::Error::from(error)),
            "correct that, or remove it from the directory",
        )
    };
    let found = match hooks::find(&config.directory) {
        Ok(found) => found,
        Err(error) if !machine.is_root => {
            let error = anyhow::Error::from(error);
            return vec![Finding::unchecked(format!("{error:#}"), "run this as root")];
        }
        Err(error) => return vec![refused(error)],
    };
    let mut findings: Vec<_> = found.refused.into_iter().map(refused).collect();
    findings.extend(found.not_executable.iter().map(|path| {
        let path = path.display();
        Finding::warning(
            format!("{path} is no hook: it is not executable"),
            format!("`chmod +x {path}`, or move it away"),
        )
    }));
    let count = u32::try_from(found.hooks.len()).unwrap_or(u32::MAX);
    let together = config.time_limit.saturating_mul(count);
    if together > HOOKS_BEFORE_FREEZE {
        findings.push(Finding::note(
            format!(
                "{count} hooks may take {} s each, but all together have {} s before a freeze",
                config.time_limit.as_secs(),
                HOOKS_BEFORE_FREEZE.as_secs()
            ),
            "lower `time-limit` in [vss.hooks], so that a hook that hangs is found in time",
        ));
    }
    findings
}

/// Whether the limits of the configuration fit those of kernel and host.
pub(super) fn time_limits(machine: &Machine) -> Vec<Finding> {
    if !machine.is_on("vss") {
        return Vec::new();
    }
    let config = &machine.config.service.vss;
    let rows = [
        (
            "time-limit",
            "[vss]",
            config.time_limit,
            KERNEL_FREEZE,
            "frozen file systems would wait for a host that gave up long ago",
        ),
        (
            "prepare-limit",
            "[vss]",
            config.prepare_limit,
            FREEZE_START,
            "the agent gives up before that, as the kernel does not wait longer",
        ),
        (
            "time-limit",
            "[vss.hooks]",
            config.hooks.time_limit,
            HOOKS_BEFORE_FREEZE,
            "the agent gives up before that, as the kernel does not wait longer",
        ),
    ];
    let too_long = rows.into_iter().filter(|(.., limit, most, _)| limit > most);
    too_long
        .map(|(key, table, limit, most, effect)| {
            let secs = |it: Duration| it.as_secs();
            Finding::warning(
                format!("{key} in {table} is {} s: {effect}", secs(limit)),
                format!("set it to {} or less", secs(most)),
            )
        })
        .collect()
}
