//! The last words.

use crate::{end, output};
use core::fmt::Write;
use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // A sink never fails.
    let _ = writeln!(output::unheld(), "{info}");
    end::exit(end::Outcome::Failure)
}
