//! References under interrupts and preemption: the fast path, gets and puts, the end, changes of mode.

use super::{Clean, Count, Random, count, misuse, references};
use crate::threads::{Thread, figure, spawn, spawn_on};
use crate::{ensure, same};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebb_boot::platform::fast_paths;
use ebb_boot::{case, threads};
use percpu::Start;

case!("percpu.s016_a_fast_path_has_no_lock_and_one_store", |_| {
    /// The length of a memory operand that begins with this ModRM byte.
    fn operand(code: &[u8]) -> usize {
        let (mode, base) = (code[0] >> 6, code[0] & 7);
        let sib = usize::from(base == 4);
        1 + sib
            + match mode {
                0 if base == 5 || (sib == 1 && code[1] & 7 == 5) => 4,
                0 => 0,
                1 => 1,
                _ => 4,
            }
    }
    // Load, test of the tags, branch, add through GS: anything else has no place.
    let mut found = 0;
    for path in fast_paths() {
        let mut code = path;
        let mut kinds = Vec::new();
        while !code.is_empty() {
            let (kind, length) = match *code {
                [0x48..=0x4f, 0x8b, ..] => ("load", 2 + operand(&code[2..])),
                [0xa8, 3, ..] => ("test", 2),
                [0xf6, modrm, 3, ..] if modrm >> 3 == 0b11000 => ("test", 3),
                [0x40..=0x4f, 0xf6, modrm, 3, ..] if modrm >> 3 == 0b11000 => ("test", 4),
                [0x75, ..] => ("branch", 2),
                [0x0f, 0x85, ..] => ("branch", 6),
                [0x65, 0x48..=0x4f, 0xff, modrm, ..] if matches!(modrm >> 3 & 7, 0 | 1) => {
                    ("add", 3 + operand(&code[3..]))
                }
                [0x65, 0x48..=0x4f, 0x01, ..] => ("add", 3 + operand(&code[3..])),
                _ => return Err(format!("no part of a fast path: {code:02x?}").into()),
            };
            kinds.push(kind);
            code = code.get(length..).ok_or("an instruction is cut")?;
        }
        same("a fast path", kinds, ["load", "test", "branch", "add"].to_vec())?;
        found += 1;
    }
    ensure(found >= 3, "the fast paths are not in the image's section")
});

/// Takes and gives back references, over and over, with others held in between.
fn get_and_put(count: &Count, pairs: u64) -> u64 {
    let mut got = 0;
    for _ in 0..pairs / 2 {
        let one = count.tryget_live();
        let other = count.tryget();
        got += u64::from(one.is_some()) + u64::from(other.is_some());
    }
    got
}

case!("percpu.s017_interrupted_gets_and_puts_lose_nothing", |machine| {
    const PAIRS: u64 = 5_000_000;
    /// All CPUs are interrupted so often at least, however fast the pairs are done.
    const KICKS: u64 = 100;
    let clean = Clean::begin();
    let (count, seen) = count("s017", Start::Percpu)?;
    let owner = count.owner().map_err(misuse)?;
    let cpus = machine.cpus();
    // Two threads on each CPU, so that an interrupt may switch; and one that interrupts them all the time.
    let each = PAIRS / (2 * cpus.count() as u64);
    let kicks = Arc::new(AtomicU64::new(0));
    let mut users = Vec::new();
    for cpu in cpus.online().iter().chain(cpus.online().iter()) {
        let (count, kicks) = (Arc::clone(&count), Arc::clone(&kicks));
        users.push(spawn_on(cpu, "user", move || {
            let (mut got, mut asked) = (get_and_put(&count, each), each / 2 * 2);
            while kicks.load(Ordering::Relaxed) < KICKS {
                got += get_and_put(&count, 1000);
                asked += 1000;
            }
            (got, asked)
        })?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let kicker = {
        let (kicks, stop) = (Arc::clone(&kicks), Arc::clone(&stop));
        spawn("kicker", move || {
            while !stop.load(Ordering::Relaxed) {
                cpus.online().iter().for_each(|cpu| threads().kick(cpu));
                kicks.fetch_add(1, Ordering::Relaxed);
                threads().sleep_for(100_000);
            }
        })?
    };
    let begun_ns = cpus.now_ns();
    let (mut got, mut asked) = (0, 0);
    for user in users {
        let done = user.join();
        (got, asked) = (got + done.0, asked + done.1);
    }
    stop.store(true, Ordering::Relaxed);
    kicker.join();
    figure("a get and a put, under preemption", (cpus.now_ns() - begun_ns) * 1000 / got, "ps");
    same("gets", got, asked)?;
    same("references that are left", references(&count), 1)?;
    owner.kill().wait_zero().map_err(misuse)?;
    same("releases", seen.all(), [1, 0, 0])?;
    drop(count);
    clean.end()
});

case!("percpu.s037_kill_and_puts_racing_release_once", |machine| {
    /// Wanted; a slow machine does what it can in the time, and the second number however long that takes.
    const LIVES: u64 = 300;
    const FEWEST: u64 = 30;
    const TIME_NS: u64 = 15_000_000_000;
    let clean = Clean::begin();
    let (count, seen) = count("s037", Start::Percpu)?;
    let stop = Arc::new(AtomicBool::new(false));
    let used = Arc::new(AtomicU64::new(0));
    let users: Vec<_> = machine
        .cpus()
        .online()
        .iter()
        .map(|cpu| {
            let (count, stop, used) = (Arc::clone(&count), Arc::clone(&stop), Arc::clone(&used));
            spawn_on(cpu, "user", move || {
                while !stop.load(Ordering::Relaxed) {
                    let held: Vec<_> = (0..4).filter_map(|_| count.tryget_live()).collect();
                    used.fetch_add(held.len() as u64, Ordering::Relaxed);
                }
            })
        })
        .collect::<Result<_, _>>()?;
    let mut owner = count.owner().map_err(misuse)?;
    let enough_ns = machine.cpus().now_ns() + TIME_NS;
    let mut lives = 0;
    while lives < FEWEST || (lives < LIVES && machine.cpus().now_ns() < enough_ns) {
        let life = lives + 1;
        // Every tenth life is killed only when somebody has used it; the others at once.
        if life % 10 == 0 {
            let before = used.load(Ordering::Relaxed);
            while used.load(Ordering::Relaxed) == before {
                threads().yield_now();
            }
        }
        let dying = owner.kill_and_confirm();
        dying.wait_zero().map_err(misuse)?;
        same("releases and confirmations", seen.all(), [life, life, 0])?;
        ensure(count.tryget().is_none(), "a reference to what is gone")?;
        owner = dying.reinit().map_err(|refused| misuse(refused.why))?;
        lives = life;
    }
    stop.store(true, Ordering::Relaxed);
    users.into_iter().for_each(Thread::join);
    figure("lives, ended while they are used", lives, "lives");
    ensure(used.load(Ordering::Relaxed) >= lives / 10, "nobody has used it")?;
    same("references", references(&count), 1)?;
    owner.kill().wait_zero().map_err(misuse)?;
    same("releases", seen.all(), [lives + 1, lives, 0])?;
    drop(count);
    clean.end()
});

case!("percpu.s046_switches_of_mode_under_load_are_exact", |machine| {
    /// Wanted; a slow machine does what it can in the time, and the second number however long that takes.
    const SWITCHES: u64 = 100_000;
    const FEWEST: u64 = 100;
    const TIME_NS: u64 = 6_000_000_000;
    let clean = Clean::begin();
    let (count, seen) = count("s046", Start::Percpu)?;
    let stop = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = machine
        .cpus()
        .online()
        .iter()
        .map(|cpu| {
            let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
            spawn_on(cpu, "user", move || {
                let mut kept = Vec::new();
                let mut random = Random(cpu.get() as u64);
                while !stop.load(Ordering::Relaxed) {
                    match random.below(3) {
                        0 => kept.extend(count.tryget_live()),
                        1 => kept.extend(kept.last().cloned()),
                        _ => kept.truncate(kept.len() / 2),
                    }
                    // Now and then, so that who switches has a turn before the end of a slice.
                    if random.below(256) == 0 {
                        threads().yield_now();
                    }
                }
            })
        })
        .collect::<Result<_, _>>()?;
    let owner = count.owner().map_err(misuse)?;
    let begun_ns = machine.cpus().now_ns();
    let mut switches = 0;
    while switches < FEWEST || (switches < SWITCHES && machine.cpus().now_ns() - begun_ns < TIME_NS) {
        owner.switch_to_atomic_sync().map_err(misuse)?;
        owner.switch_to_percpu().map_err(misuse)?;
        switches += 1;
    }
    let took_ns = machine.cpus().now_ns() - begun_ns;
    stop.store(true, Ordering::Relaxed);
    users.into_iter().for_each(Thread::join);
    figure("switches to atomic mode and back, under load", switches, "switches");
    figure("a switch to atomic mode and back", took_ns / 1000 / switches.max(1), "us");
    same("switches that were told", seen.all(), [0, 0, switches])?;
    same("references", references(&count), 1)?;
    owner.kill().wait_zero().map_err(misuse)?;
    drop(count);
    clean.end()
});

case!("percpu.s046_switches_of_mode_at_rest_are_exact", |machine| {
    const SWITCHES: u64 = 200;
    let clean = Clean::begin();
    let (count, seen) = count("s046", Start::Percpu)?;
    let owner = count.owner().map_err(misuse)?;
    let begun_ns = machine.cpus().now_ns();
    for _ in 0..SWITCHES {
        let held = owner.get_many(3);
        owner.switch_to_atomic_sync().map_err(misuse)?;
        drop(held);
        owner.switch_to_percpu().map_err(misuse)?;
    }
    figure("a switch of mode and back, at rest", (machine.cpus().now_ns() - begun_ns) / SWITCHES, "ns");
    same("switches", seen.all(), [0, 0, SWITCHES])?;
    same("references", references(&count), 1)?;
    drop(owner);
    drop(count);
    clean.end()
});
