//! Links the image with the boot crate's script.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let on_image = std::env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|os| os == "none");
    if let Some(script) = std::env::var("DEP_EBB_BOOT_SCRIPT").ok().filter(|_| on_image) {
        println!("cargo::rerun-if-changed={script}");
        println!("cargo::rustc-link-arg-bins=-T{script}");
    }
}
