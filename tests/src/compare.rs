//! Whether a copy is the same as what was copied.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Expects a file with the bytes that `expected` returns.
///
/// # Errors
///
/// If it has others, or cannot be read.
pub fn expect_same(path: &Path, expected: &mut dyn Read) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut at = 0usize;
    let (mut ours, mut theirs) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let wanted = fill(expected, &mut ours)?;
        let found = fill(&mut file, &mut theirs)?;
        let same = ours.get(..wanted) == theirs.get(..found);
        if !same {
            let differs = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
            bail!(
                "{} differs from what was copied at byte {}, or in its length (expected {}, found {})",
                path.display(),
                at + differs.min(wanted).min(found),
                at + wanted,
                at + found
            );
        }
        if wanted == 0 {
            return Ok(());
        }
        at += wanted;
    }
}

fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    let len = buffer.len() as u64;
    let mut filled = Vec::with_capacity(buffer.len());
    source.take(len).read_to_end(&mut filled)?;
    for (to, from) in buffer.iter_mut().zip(&filled) {
        *to = *from;
    }
    Ok(filled.len())
}
