//! A get and a put as this image makes them: counted by a case here, and read by `cargo xtask test`, which
//! disassembles the function [`get_put`].

use crate::{failed, same};
use ebb_boot::{Kernel, case, rcu};
use percpu::{Owner, PercpuRef, Reusable, Start};

type Count = PercpuRef<Kernel, fn(), Reusable>;

/// A get and a put and nothing else.
#[inline(never)]
fn get_put(owner: &Owner<'_, Kernel, fn(), Reusable>) {
    drop(owner.get());
}

case!("percpu.a_get_and_a_put_leave_nothing", |_| {
    static NOTHING: fn() = || {};
    let count =
        Count::reusable(rcu(), "fast path", NOTHING, Start::Percpu).map_err(|why| failed("a count")(&why))?;
    let owner = count.owner().map_err(|why| failed("its owner")(&why))?;
    for _ in 0..1_000 {
        get_put(&owner);
    }
    let held = owner.get();
    same("references", count.inspect().map(|seen| seen.references), Some(2))?;
    drop(held);
    same("references", count.inspect().map(|seen| seen.references), Some(1))
});
