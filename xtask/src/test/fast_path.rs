//! A get and a put of a per-CPU reference count, as the compiler made them: each is one test of the mode and one
//! unlocked instruction through GS.
//!
//! What is read is a function `get_put`, which is in `bench_percpu` on the host and in the guest test image. The path is
//! followed from its first instruction to its return with no branch taken: the branches lead to the slow paths.

use super::outcome::{Case, Outcome, Results, Rung};
use crate::bench;
use anyhow::{Context, Result, bail, ensure};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::path::Path;
use std::time::Instant;

/// Judges the function of the benchmark, if the case contains `filter`.
pub(crate) fn on_the_host(filter: Option<&str>, results: &mut Results) {
    const ID: &str = "fast_path::get_and_put_are_four_instructions_each_without_lock";
    case(Rung::Host, ID, filter, results, || {
        let programs = bench::build_programs(&["bench_percpu"])?;
        judge_file(programs.first().context("nothing was built")?, "bench_percpu::get_put")
    });
}

/// Judges the function of the guest test image, whose linked file is `linked`, if the case contains `filter`.
pub(crate) fn in_the_image(linked: &Path, filter: Option<&str>, results: &mut Results) {
    const ID: &str = "image.percpu_fast_paths_are_four_instructions_each_without_lock";
    case(Rung::Qemu, ID, filter, results, || judge_file(linked, "ebb_guest_tests::fast_path::get_put"));
}

fn case(
    rung: Rung,
    id: &str,
    filter: Option<&str>,
    results: &mut Results,
    judge: impl FnOnce() -> Result<()>,
) {
    if filter.is_some_and(|filter| !id.contains(filter)) {
        return;
    }
    let begun = Instant::now();
    let outcome = match judge() {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    };
    results.add(Case { id: id.to_owned(), rung, outcome, took: begun.elapsed() });
}

fn judge_file(path: &Path, name: &str) -> Result<()> {
    let file = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (code, address) = function(&file, name)?;
    judge(&straight(&code, address)?)
}

/// The code of a function, and its address.
fn function(file: &[u8], name: &str) -> Result<(Vec<u8>, u64)> {
    let object = object::File::parse(file).context("no object file")?;
    let symbol = object
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
        .find(|symbol| {
            symbol.name().is_ok_and(|mangled| format!("{:#}", rustc_demangle::demangle(mangled)) == name)
        })
        .with_context(|| format!("no function {name}: was the file stripped?"))?;
    let section =
        object.section_by_index(symbol.section_index().context("a function outside of sections")?)?;
    let code =
        section.data_range(symbol.address(), symbol.size())?.context("a function beyond its section")?;
    Ok((code.to_vec(), symbol.address()))
}

/// The instructions from the first to the return, with no conditional branch taken.
fn straight(code: &[u8], address: u64) -> Result<Vec<Instruction>> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut path = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        ensure!(!instruction.is_invalid(), "no instruction at {:#x}", instruction.ip());
        // A jump forward: there is no loop.
        if instruction.mnemonic() == Mnemonic::Jmp {
            let target = instruction.near_branch_target();
            ensure!(target >= instruction.next_ip(), "a jump backward at {:#x}", instruction.ip());
            decoder.set_position(usize::try_from(target - address)?)?;
            decoder.set_ip(target);
        }
        path.push(instruction);
        if instruction.mnemonic() == Mnemonic::Ret {
            return Ok(path);
        }
    }
    bail!("the function does not return: {:?}", mnemonics(&path))
}

fn mnemonics(path: &[Instruction]) -> Vec<Mnemonic> {
    path.iter().map(Instruction::mnemonic).collect()
}

/// Whether an instruction belongs to the frame of a function: the slow paths want one, and what calls the function has
/// one of its own when it takes the fast path without a call.
fn is_of_the_frame(at: &Instruction) -> bool {
    let stack = |register| matches!(register, Register::RSP | Register::RBP);
    match at.mnemonic() {
        Mnemonic::Push | Mnemonic::Pop | Mnemonic::Ret => true,
        Mnemonic::Mov | Mnemonic::Add | Mnemonic::Sub | Mnemonic::Lea => {
            at.op0_kind() == OpKind::Register && stack(at.op0_register())
        }
        _ => false,
    }
}

/// Whether a path is a get and a put and nothing else, but for a frame.
fn judge(path: &[Instruction]) -> Result<()> {
    let shown = || format!("{:?}", mnemonics(path));
    ensure!(!path.iter().any(Instruction::has_lock_prefix), "a locked instruction: {}", shown());
    let work: Vec<&Instruction> = path.iter().filter(|at| !is_of_the_frame(at)).collect();
    let [get @ .., _, _, _, _] = work.as_slice() else { bail!("too short: {}", shown()) };
    ensure!(work.len() == 8, "not twice four instructions: {}", shown());
    for (four, add) in [(get, Mnemonic::Inc), (&work[4..], Mnemonic::Dec)] {
        let [load, test, branch, last] = four else { bail!("not four instructions: {}", shown()) };
        let loaded = load.op0_register();
        let through_gs = |at: &Instruction| at.segment_prefix() == Register::GS;
        ensure!(
            load.mnemonic() == Mnemonic::Mov && load.op1_kind() == OpKind::Memory && !through_gs(load),
            "the mode is not loaded first: {}",
            shown()
        );
        ensure!(
            test.mnemonic() == Mnemonic::Test
                && test.op0_register().full_register() == loaded
                && test.immediate(1) == 3,
            "its tags are not tested: {}",
            shown()
        );
        ensure!(branch.mnemonic() == Mnemonic::Jne, "no branch on the tags: {}", shown());
        ensure!(
            last.mnemonic() == add && through_gs(last) && last.memory_base() == loaded,
            "no {add:?} of this CPU's word: {}",
            shown()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mov rax,[rdi]; test al,3; jne +0; ADD; mov rax,[rdi]; test al,3; jne +0; dec qword gs:[rax]; ret`.
    fn code(first_add: &[u8]) -> Vec<u8> {
        let look = [0x48, 0x8b, 0x07, 0xa8, 0x03, 0x75, 0x00];
        [&look[..], first_add, &look[..], &[0x65, 0x48, 0xff, 0x08, 0xc3]].concat()
    }

    fn judged(code: &[u8]) -> Result<(), String> {
        straight(code, 0x1000).and_then(|path| judge(&path)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_get_and_a_put_are_known() {
        assert_eq!(judged(&code(&[0x65, 0x48, 0xff, 0x00])), Ok(()));
        // The same between `push rbp; mov rbp,rsp; push rax` and `add rsp,8; pop rbp; ret`.
        let mut framed = [&[0x55, 0x48, 0x89, 0xe5, 0x50][..], &code(&[0x65, 0x48, 0xff, 0x00])].concat();
        framed.pop();
        let end = framed.len();
        framed.extend([0x48, 0x83, 0xc4, 0x08, 0x5d, 0xc3]);
        assert_eq!(judged(&framed), Ok(()));
        // A jump over something else is an instruction too.
        framed.splice(end..end, [0xeb, 0x01, 0xcc]);
        assert!(judged(&framed).unwrap_err().contains("not twice four"));
    }

    #[test]
    fn what_is_slower_is_found() {
        // Locked; not through GS; through the wrong register; a call.
        for (add, why) in [
            (&[0xf0, 0x48, 0xff, 0x00][..], "locked"),
            (&[0x48, 0xff, 0x00], "no Inc"),
            (&[0x65, 0x48, 0xff, 0x01], "no Inc"),
            (&[0xe8, 0, 0, 0, 0], "no Inc"),
            (&[0x90, 0x65, 0x48, 0xff, 0x00], "not twice four"),
        ] {
            let error = judged(&code(add)).unwrap_err();
            assert!(error.contains(why), "{add:x?}: {error}");
        }
        // Only ATOMIC is tested.
        let mut one_tag = code(&[0x65, 0x48, 0xff, 0x00]);
        one_tag[4] = 1;
        assert!(judged(&one_tag).unwrap_err().contains("tags"));
        assert!(judged(&[0x90]).unwrap_err().contains("return"));
    }
}
