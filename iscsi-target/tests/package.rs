//! That the crate is whole when it is packed by itself.

use std::process::Command;

#[test]
fn the_package_has_its_licences_and_all_that_it_is_made_of() {
    let mut cargo = Command::new(env!("CARGO"));
    let cargo = cargo.args(["package", "--list", "--allow-dirty", "--offline"]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    let has = |name: &str| listed.lines().any(|line| line == name);
    for name in ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "src/lib.rs", "examples/serve.rs"] {
        assert!(has(name), "no {name} in\n{listed}");
    }
    for line in listed.lines() {
        assert!(!line.starts_with("fuzz/target") && !line.ends_with(".img"), "{line}");
    }
}
