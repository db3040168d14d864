//! Links images with `link.ld`: this package's, and by metadata those of packages that depend on it.

use std::path::Path;

fn main() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("link.ld");
    println!("cargo::rerun-if-changed={}", script.display());
    println!("cargo::rerun-if-changed=build.rs");
    // Read by a dependent's build script as DEP_EBB_BOOT_SCRIPT.
    println!("cargo::metadata=script={}", script.display());
    if std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|os| os == "none") {
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}
