//! Applies a plan as a transaction. `backups` copies the files that it replaces, `undo_log`
//! records how to undo it, and `apply` carries it out or rolls it back, all under the `lock`.

pub(super) mod apply;
pub(super) mod backups;
pub(super) mod lock;
pub(super) mod undo_log;
