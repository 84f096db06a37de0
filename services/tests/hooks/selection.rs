//! Which programs are hooks, and which are refused.

use std::fs;

use hyperv_services::vss::hooks::OnFailure;

use crate::directory::{Hooks, give_away, in_words, mode};

/// One refusal, in these words.
#[track_caller]
fn assert_refused(hooks: &Hooks, name: &str, words: &str) {
    let (found, refused) = hooks.found();
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(refused.len(), 1, "{refused:?}");
    let begin = format!("{} will not be run: ", hooks.path(name).display());
    assert!(refused[0].starts_with(&begin), "{}", refused[0]);
    assert!(refused[0].contains(words), "{}", refused[0]);
}

#[test]
fn a_directory_that_is_not_there_has_no_hooks() {
    let hooks = Hooks::new();
    fs::remove_dir(&hooks.config.directory).unwrap();
    assert!(hooks.freeze().unwrap().paths().is_empty());
    assert!(hooks.log.lines().is_empty());
}

#[test]
fn a_directory_that_cannot_be_read_is_an_error() {
    let hooks = Hooks::new();
    fs::remove_dir(&hooks.config.directory).unwrap();
    fs::write(&hooks.config.directory, "").unwrap();
    let error = in_words(&hooks.freeze().unwrap_err());
    assert!(
        error.starts_with("cannot read the hook directory"),
        "{error}"
    );
    assert!(error.contains("Not a directory"), "{error}");
}

#[test]
fn hooks_are_in_byte_order_of_their_names() {
    let hooks = Hooks::new();
    for name in ["b", "9-a", "a", "B", "10-b", "é", "a.sh"] {
        hooks.add(name, "");
    }
    let (found, refused) = hooks.found();
    assert_eq!(found, ["10-b", "9-a", "B", "a", "a.sh", "b", "é"]);
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn leftovers_are_no_hooks() {
    let hooks = Hooks::new();
    let leftovers = [
        "a~",
        "a.bak",
        "a.orig",
        "a.rpmnew",
        "a.rpmorig",
        "a.rpmsave",
        "a.sample",
        "a.dpkg-old",
        "a.dpkg-new",
        "a.dpkg-tmp",
        "a.dpkg-dist",
        "a.dpkg-bak",
        "a.dpkg-backup",
        "a.dpkg-remove",
        "a.ucf-old",
        "#a#",
        ".#a",
        ".a",
        ".a.swp",
    ];
    for name in leftovers {
        hooks.add(name, "");
    }
    // These are none.
    for name in ["a", "bak", "orig-a", "a.bak.sh", "a.sh", "dpkg-old"] {
        hooks.add(name, "");
    }
    let (found, refused) = hooks.found();
    assert_eq!(
        found,
        ["a", "a.bak.sh", "a.sh", "bak", "dpkg-old", "orig-a"]
    );
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn what_is_no_program_is_no_hook() {
    let hooks = Hooks::new();
    mode(&hooks.add("switched-off", ""), 0o644);
    fs::create_dir(hooks.path("directory")).unwrap();
    hooks.link("masked", "/dev/null".as_ref());
    // Not even where it is somebody else's.
    let theirs = hooks.add("theirs", "");
    mode(&theirs, 0o666);
    let (found, refused) = hooks.found();
    assert!(found.is_empty(), "{found:?}");
    assert!(refused.is_empty(), "{refused:?}");
    // The files may have been meant to be hooks.
    let not_executable = hooks.find().unwrap().not_executable;
    let expected = ["switched-off", "theirs"].map(|name| hooks.path(name));
    assert_eq!(not_executable, expected);
    drop(hooks.freeze().unwrap());
    let lines = hooks.log.of("INFO");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("not executable"), "{lines:?}");
    for path in expected {
        assert!(lines[0].contains(path.to_str().unwrap()), "{lines:?}");
    }
}

#[test]
fn a_hook_that_others_may_write_to_is_refused() {
    for bits in [0o775, 0o757, 0o1777] {
        let hooks = Hooks::new();
        mode(&hooks.add("hook", ""), bits);
        let path = hooks.path("hook");
        let words = format!("can write to {} (mode {bits:04o})", path.display());
        assert_refused(&hooks, "hook", &words);
    }
}

#[test]
fn a_hook_of_another_user_is_refused() {
    let hooks = Hooks::new();
    if give_away(&hooks.add("hook", "")) {
        assert_refused(&hooks, "hook", "belongs to user 4711");
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    // A sticky bit does not help: others could put a link to any program there.
    for bits in [0o775, 0o1777] {
        let hooks = Hooks::new();
        hooks.add("hook", "");
        mode(&hooks.config.directory, bits);
        let error = in_words(&hooks.find().unwrap_err());
        assert!(error.contains(&format!("(mode {bits:04o})")), "{error}");
    }
}

#[test]
fn a_directory_below_one_that_others_may_write_to_is_refused() {
    let hooks = Hooks::new();
    hooks.add("hook", "");
    let above = hooks.config.directory.parent().unwrap();
    mode(above, 0o777);
    let error = in_words(&hooks.find().unwrap_err());
    let words = format!("can write to {} (mode 0777)", above.display());
    assert!(error.contains(&words), "{error}");
    // Where nobody can take away what is not theirs, it is taken.
    mode(above, 0o1777);
    assert_eq!(hooks.found().0, ["hook"]);
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let hooks = Hooks::new();
    hooks.add("hook", "");
    if give_away(&hooks.config.directory) {
        let error = in_words(&hooks.find().unwrap_err());
        assert!(error.contains("belongs to user 4711"), "{error}");
    }
}

#[test]
fn what_a_link_leads_to_is_looked_at() {
    let hooks = Hooks::new();
    let target = hooks.beside("target");
    hooks.script(&target, "target", "");
    hooks.link("hook", &target);
    // That the test's own directory is not writable for others is by tempfile.
    assert_eq!(hooks.found().0, ["hook"]);
    mode(&target, 0o777);
    assert_refused(&hooks, "hook", &format!("{} (mode 0777)", target.display()));
}

#[test]
fn a_link_by_way_of_another_users_directory_is_refused() {
    let hooks = Hooks::new();
    let theirs = hooks.beside("theirs");
    fs::create_dir(&theirs).unwrap();
    let target = theirs.join("target");
    hooks.script(&target, "target", "");
    hooks.link("hook", &target);
    assert_eq!(hooks.found().0, ["hook"]);
    if give_away(&theirs) {
        let words = format!("{} belongs to user 4711", theirs.display());
        assert_refused(&hooks, "hook", &words);
    }
}

#[test]
fn a_program_in_a_directory_that_others_may_write_to_is_refused() {
    // The sticky bit does not keep them from putting a link to another of root's
    // programs there, before root has made this one.
    let hooks = Hooks::new();
    let open = hooks.beside("open");
    fs::create_dir(&open).unwrap();
    let target = open.join("target");
    hooks.script(&target, "target", "");
    hooks.link("hook", &target);
    mode(&open, 0o1777);
    let words = format!("can write to {} (mode 1777)", open.display());
    assert_refused(&hooks, "hook", &words);
}

#[test]
fn a_link_that_leads_nowhere_is_refused() {
    let hooks = Hooks::new();
    hooks.link("hook", &hooks.beside("nothing"));
    assert_refused(&hooks, "hook", "No such file");
}

#[test]
fn a_hook_that_cannot_be_started_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let no_interpreter = place.path().join("file");
    fs::write(&no_interpreter, "").unwrap();
    for (text, words) in [
        (
            "#!/nowhere/at/all\n",
            "its interpreter /nowhere/at/all does not exist",
        ),
        ("#!/bin/sh\r\necho\r\n", "the file has Windows line ends"),
        ("\u{feff}#!/bin/sh\n", "it begins with a byte order mark"),
        (
            &format!("#!{}\n", no_interpreter.display()),
            "is not executable",
        ),
    ] {
        let hooks = Hooks::new();
        Hooks::text(&hooks.path("hook"), text);
        let (found, refused) = hooks.found();
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(refused.len(), 1, "{refused:?}");
        let begin = format!("{} cannot be run: ", hooks.path("hook").display());
        assert!(refused[0].starts_with(&begin), "{}", refused[0]);
        assert!(refused[0].contains(words), "{}", refused[0]);
    }
}

#[test]
fn what_is_refused_stops_the_freeze_before_any_hook_is_run() {
    let hooks = Hooks::new();
    hooks.add("1", "");
    mode(&hooks.add("2", ""), 0o775);
    let error = in_words(&hooks.freeze().unwrap_err());
    assert!(error.contains("/2 will not be run"), "{error}");
    assert!(hooks.journal().is_empty());
}

#[test]
fn where_the_freeze_goes_on_the_refused_is_left_out_with_a_warning() {
    let mut hooks = Hooks::new();
    hooks.config.on_failure = OnFailure::GoOn;
    hooks.add("1", "");
    mode(&hooks.add("2", ""), 0o775);
    let ran = hooks.freeze().unwrap();
    assert_eq!(ran.paths(), [hooks.path("1")]);
    assert_eq!(hooks.journal(), ["1 freeze"]);
    let warnings = hooks.log.of("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("/2 will not be run"), "{warnings:?}");

    mode(&hooks.config.directory, 0o777);
    assert!(hooks.freeze().unwrap().paths().is_empty());
    assert_eq!(hooks.journal(), ["1 freeze"]);
    let warnings = hooks.log.of("WARN");
    assert!(warnings[1].starts_with("no hook is run: "), "{warnings:?}");
}

#[test]
fn a_hundred_hooks_are_enough() {
    let hooks = Hooks::new();
    for name in 0..100 {
        hooks.add(&name.to_string(), "");
    }
    assert_eq!(hooks.found().0.len(), 100);
    hooks.add("100", "");
    let error = in_words(&hooks.find().unwrap_err());
    assert!(error.contains("more than 100 hooks"), "{error}");
}
