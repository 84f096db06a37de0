//! Does in the guest what the host's scenarios ask for.

use std::path::Path;

use anyhow::Result;
use hyperv_vm::guest::{Helper, PORT};

fn main() -> Result<()> {
    Helper::default().serve(Path::new(PORT))
}
