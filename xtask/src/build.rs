//! Builds the image.

use crate::{paths, setup};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;

/// Builds the Ebb image and says where it is.
///
/// # Errors
///
/// If the compiler's target cannot be had or the build fails.
pub(crate) fn image() -> Result<PathBuf> {
    setup::ensure_target()?;
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--package",
            "ebb-boot",
            "--bin",
            "ebb",
            "--profile",
            "image",
            "--target",
            setup::TARGET,
        ])
        .current_dir(paths::workspace())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the image does not build");
    Ok(paths::target().join(setup::TARGET).join("image/ebb"))
}
