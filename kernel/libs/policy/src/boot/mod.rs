//! What is on and what is off, and why: the boot options of both generations of the original, as a pure function.
//!
//! The original needs the option `tmem` for everything. Its first two generations then take `noselfballooning` and
//! `noselfshrink` (and, on a kernel without frontswap, leave selfballooning off until `selfballooning` asks for
//! it); the last takes `tmem.selfballooning=0`, `tmem.selfshrinking=0`, `tmem.frontswap=0`, `tmem.cleancache=0`.
//! None of them asks whether the hypervisor speaks tmem at all.
//!
//! [`select`] takes the options of all generations together. It differs from the original in this:
//!
//! * **Selfballooning works without tmem**, and is on by default. The original wanted tmem because its balloon took
//!   memory that was in use: what it pushed out had to be caught by frontswap and cleancache, and without them a
//!   guest swapped to disk or ran out of memory. Here the mechanism takes free memory only, gives it back within
//!   the allocation that misses it, and pages that must go have tiers of the guest's own. No released Xen since
//!   4.13 has tmem, so a rule that required it would leave selfballooning off everywhere.
//! * The hypervisor's tmem is used when `tmem` asks for it *and* the hypervisor has answered.
//! * frontswap is on when something is behind it, tmem or a tier of our own; self-shrinking needs frontswap, while
//!   `tmem.frontswap=0` leaves selfballooning alone (in the original it switches both off).
//! * What is off for a reason that cannot change, such as being the initial domain, cannot be switched on at run
//!   time either ([`switch_on`]).

use core::fmt;

use crate::Generation;

/// The boot options, parsed. A `None` was not on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `tmem`: use the hypervisor's tmem.
    pub tmem: bool,
    /// `tmem.selfballooning=`.
    pub tmem_selfballooning: Option<bool>,
    /// `tmem.selfshrinking=`, or `tmem.selfshrink=`, as comments of the original spell it.
    pub tmem_selfshrinking: Option<bool>,
    /// `tmem.frontswap=`.
    pub tmem_frontswap: Option<bool>,
    /// `tmem.cleancache=`.
    pub tmem_cleancache: Option<bool>,
    /// `noselfballooning`.
    pub noselfballooning: bool,
    /// `selfballooning`.
    pub selfballooning: bool,
    /// `noselfshrink`.
    pub noselfshrink: bool,
}

/// Where the kernel runs and what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// Under Xen.
    pub xen: bool,
    /// Xen's initial domain (dom0).
    pub initial_domain: bool,
    /// The hypervisor has answered a tmem call with something else than "no such call".
    pub tmem_answers: bool,
    /// The kernel has a front end for swapping (the original: `CONFIG_FRONTSWAP`).
    pub frontswap_built: bool,
    /// frontswap has a tier of the guest's own, such as compressed memory.
    pub own_tier: bool,
    /// There is a page cache with clean pages to keep.
    pub page_cache: bool,
}

/// Why something is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// It is on by default.
    Default,
    /// A boot option asks for it.
    Asked,
    /// Not under Xen: there is no balloon.
    NoXen,
    /// The initial domain gives its memory to no one.
    InitialDomain,
    /// `noselfballooning` or `tmem.selfballooning=0`.
    SelfballooningOption,
    /// `noselfshrink` or `tmem.selfshrinking=0`.
    SelfshrinkOption,
    /// `tmem.frontswap=0`.
    FrontswapOption,
    /// `tmem.cleancache=0`.
    CleancacheOption,
    /// `tmem` is not on the command line, and nothing else can do the work.
    TmemNotAsked,
    /// The hypervisor does not speak tmem, and nothing else can do the work.
    NoTmem,
    /// This kernel has no frontswap.
    NotBuilt,
    /// frontswap is off, and without it there is nothing to do.
    FrontswapOff,
    /// There is no page cache.
    NoPageCache,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "on by default",
            Self::Asked => "asked for on the command line",
            Self::NoXen => "not running under Xen",
            Self::InitialDomain => "not in the initial domain",
            Self::SelfballooningOption => "noselfballooning or tmem.selfballooning=0 on the command line",
            Self::SelfshrinkOption => "noselfshrink or tmem.selfshrinking=0 on the command line",
            Self::FrontswapOption => "tmem.frontswap=0 on the command line",
            Self::CleancacheOption => "tmem.cleancache=0 on the command line",
            Self::TmemNotAsked => "tmem is not on the command line and there is no tier of our own",
            Self::NoTmem => "the hypervisor does not speak tmem and there is no tier of our own",
            Self::NotBuilt => "this kernel has no frontswap",
            Self::FrontswapOff => "frontswap is off",
            Self::NoPageCache => "there is no page cache",
        })
    }
}

/// A switch and why it stands so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On.
    On(Why),
    /// Off.
    Off(Why),
}

impl Switch {
    /// Whether it is on.
    #[must_use]
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On(_))
    }

    /// Why it stands so.
    #[must_use]
    pub const fn why(self) -> Why {
        match self {
            Self::On(why) | Self::Off(why) => why,
        }
    }
}

impl fmt::Display for Switch {
    /// For a log line: `enabled: …` or `disabled: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_on() { "enabled" } else { "disabled" };
        write!(f, "{word}: {}", self.why())
    }
}

/// What is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The balloon's target is decided by policy.
    pub selfballooning: Switch,
    /// Pages are brought home from frontswap.
    pub selfshrinking: Switch,
    /// Anonymous pages go to frontswap.
    pub frontswap: Switch,
    /// Clean pages go to cleancache.
    pub cleancache: Switch,
}

/// Our rules; see the head of this module.
#[must_use]
pub fn select(options: &Options, platform: &Platform) -> Selection {
    let frontswap = select_frontswap(options, platform);
    Selection {
        selfballooning: select_selfballooning(options, platform),
        selfshrinking: if options.noselfshrink || options.tmem_selfshrinking == Some(false) {
            Switch::Off(Why::SelfshrinkOption)
        } else if !frontswap.is_on() {
            Switch::Off(Why::FrontswapOff)
        } else {
            on(options.tmem_selfshrinking == Some(true))
        },
        frontswap,
        cleancache: if options.tmem_cleancache == Some(false) {
            Switch::Off(Why::CleancacheOption)
        } else if !platform.page_cache {
            Switch::Off(Why::NoPageCache)
        } else {
            tmem(options, platform).map_or_else(Switch::Off, |()| on(options.tmem_cleancache == Some(true)))
        },
    }
}

fn select_selfballooning(options: &Options, platform: &Platform) -> Switch {
    if !platform.xen {
        Switch::Off(Why::NoXen)
    } else if platform.initial_domain {
        Switch::Off(Why::InitialDomain)
    } else if options.noselfballooning || options.tmem_selfballooning == Some(false) {
        Switch::Off(Why::SelfballooningOption)
    } else {
        on(options.selfballooning || options.tmem_selfballooning == Some(true))
    }
}

fn select_frontswap(options: &Options, platform: &Platform) -> Switch {
    if !platform.frontswap_built {
        return Switch::Off(Why::NotBuilt);
    }
    if options.tmem_frontswap == Some(false) {
        return Switch::Off(Why::FrontswapOption);
    }
    match tmem(options, platform) {
        Err(why) if !platform.own_tier => Switch::Off(why),
        Ok(()) | Err(_) => on(options.tmem_frontswap == Some(true)),
    }
}

/// Whether the hypervisor's tmem is to be used.
fn tmem(options: &Options, platform: &Platform) -> Result<(), Why> {
    if !platform.xen {
        Err(Why::NoXen)
    } else if !options.tmem {
        Err(Why::TmemNotAsked)
    } else if !platform.tmem_answers {
        Err(Why::NoTmem)
    } else {
        Ok(())
    }
}

const fn on(asked: bool) -> Switch {
    Switch::On(if asked { Why::Asked } else { Why::Default })
}

/// The original's rules. They read only the options of their own generation, and not whether tmem answers.
///
/// Without frontswap in the kernel the first two generations have no self-shrinking and want `selfballooning`;
/// the last has both off.
#[must_use]
pub fn select_original(options: &Options, platform: &Platform, generation: Generation) -> Selection {
    let shim = if !platform.xen {
        Err(Why::NoXen)
    } else if !options.tmem {
        Err(Why::TmemNotAsked)
    } else {
        Ok(())
    };
    let driver = if shim.is_ok() && platform.initial_domain { Err(Why::InitialDomain) } else { shim };
    let unless = |base: Result<(), Why>, off: Option<Why>| match (base, off) {
        (Err(why), _) | (Ok(()), Some(why)) => Switch::Off(why),
        (Ok(()), None) => Switch::On(Why::Default),
    };
    let not_built = (!platform.frontswap_built).then_some(Why::NotBuilt);
    if generation == Generation::Last {
        let refused = |option: Option<bool>, why: Why| (option == Some(false)).then_some(why);
        let frontswap = not_built.or(refused(options.tmem_frontswap, Why::FrontswapOption));
        let both_off = frontswap.map(|_| Why::FrontswapOff);
        let cleancache = refused(options.tmem_cleancache, Why::CleancacheOption);
        let ballooning = refused(options.tmem_selfballooning, Why::SelfballooningOption);
        let shrinking = refused(options.tmem_selfshrinking, Why::SelfshrinkOption);
        return Selection {
            selfballooning: unless(driver, both_off.or(ballooning)),
            selfshrinking: unless(driver, both_off.or(shrinking)),
            frontswap: unless(shim, frontswap),
            cleancache: unless(shim, cleancache),
        };
    }
    let selfballooning = if platform.frontswap_built {
        unless(driver, options.noselfballooning.then_some(Why::SelfballooningOption))
    } else if options.selfballooning {
        driver.map_or_else(Switch::Off, |()| Switch::On(Why::Asked))
    } else {
        unless(driver, Some(Why::SelfballooningOption))
    };
    Selection {
        selfballooning,
        selfshrinking: unless(driver, not_built.or(options.noselfshrink.then_some(Why::SelfshrinkOption))),
        frontswap: unless(shim, not_built),
        cleancache: unless(shim, None),
    }
}

/// Whether selfballooning may be switched on at run time.
///
/// # Errors
///
/// Why not: where there is no balloon, or in the initial domain. A boot option is no reason; it only chose the
/// state at start. (The original asks nothing: its setting can be written in the initial domain too.)
pub fn switch_on(platform: &Platform) -> Result<(), Why> {
    if !platform.xen {
        Err(Why::NoXen)
    } else if platform.initial_domain {
        Err(Why::InitialDomain)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
