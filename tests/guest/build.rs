//! Links the guest test image with the linker script of the boot crate.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(script) = std::env::var_os("DEP_EBB_BOOT_SCRIPT")
        && std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|os| os == "none")
    {
        let script = std::path::PathBuf::from(script);
        println!("cargo::rerun-if-changed={}", script.display());
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}
