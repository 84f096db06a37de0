//! What all of these tests need.

/// Says that a test cannot run here; where everything must run, fails.
#[track_caller]
pub(crate) fn skip(why: &str) {
    println!("skipped: {why}");
    assert!(
        std::env::var_os("CI").is_none(),
        "skipped where CI is set: {why}"
    );
}
