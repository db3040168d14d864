//! Options of both generations, on the platforms that exist.

use std::string::ToString;

use super::Switch::{Off, On};
use super::Why::*;
use super::{Options, Platform, Selection, Switch, select, select_original, switch_on};
use crate::Generation;

/// Xen of today: no tmem.
const TODAY: Platform = Platform {
    xen: true,
    initial_domain: false,
    tmem_answers: false,
    frontswap_built: true,
    own_tier: true,
    page_cache: true,
};
/// Xen 4.12 with tmem switched on, and the guest without tiers of its own, as Linux was.
const THEN: Platform = Platform { tmem_answers: true, own_tier: false, ..TODAY };
const NONE: Options = Options {
    tmem: false,
    tmem_selfballooning: None,
    tmem_selfshrinking: None,
    tmem_frontswap: None,
    tmem_cleancache: None,
    noselfballooning: false,
    selfballooning: false,
    noselfshrink: false,
};
const TMEM: Options = Options { tmem: true, ..NONE };

/// Selfballooning, self-shrinking, frontswap, cleancache.
fn states(selection: Selection) -> [Switch; 4] {
    [selection.selfballooning, selection.selfshrinking, selection.frontswap, selection.cleancache]
}

#[test]
fn our_rules() {
    let default = On(Default);
    for (what, options, platform, expected) in [
        ("today, no options", NONE, TODAY, [default, default, default, Off(TmemNotAsked)]),
        ("today, tmem asked for", TMEM, TODAY, [default, default, default, Off(NoTmem)]),
        (
            "today, no tier",
            TMEM,
            Platform { own_tier: false, ..TODAY },
            [default, Off(FrontswapOff), Off(NoTmem), Off(NoTmem)],
        ),
        ("then", TMEM, THEN, [default; 4]),
        (
            "then, not asked for",
            NONE,
            THEN,
            [default, Off(FrontswapOff), Off(TmemNotAsked), Off(TmemNotAsked)],
        ),
        (
            "tmem.selfballooning=0",
            Options { tmem_selfballooning: Some(false), ..TMEM },
            THEN,
            [Off(SelfballooningOption), default, default, default],
        ),
        (
            "noselfballooning",
            Options { noselfballooning: true, ..TMEM },
            THEN,
            [Off(SelfballooningOption), default, default, default],
        ),
        (
            "noselfballooning selfballooning",
            Options { noselfballooning: true, selfballooning: true, ..TMEM },
            THEN,
            [Off(SelfballooningOption), default, default, default],
        ),
        (
            "selfballooning tmem.selfshrinking=1",
            Options { selfballooning: true, tmem_selfshrinking: Some(true), ..TMEM },
            THEN,
            [On(Asked), On(Asked), default, default],
        ),
        (
            "tmem.selfshrinking=0",
            Options { tmem_selfshrinking: Some(false), ..TMEM },
            THEN,
            [default, Off(SelfshrinkOption), default, default],
        ),
        (
            "noselfshrink",
            Options { noselfshrink: true, ..TMEM },
            THEN,
            [default, Off(SelfshrinkOption), default, default],
        ),
        (
            "tmem.frontswap=0 leaves selfballooning on",
            Options { tmem_frontswap: Some(false), ..TMEM },
            THEN,
            [default, Off(FrontswapOff), Off(FrontswapOption), default],
        ),
        (
            "tmem.cleancache=0",
            Options { tmem_cleancache: Some(false), ..TMEM },
            THEN,
            [default, default, default, Off(CleancacheOption)],
        ),
        (
            "no Xen",
            TMEM,
            Platform { xen: false, own_tier: false, ..TODAY },
            [Off(NoXen), Off(FrontswapOff), Off(NoXen), Off(NoXen)],
        ),
        (
            "no Xen, but a tier",
            NONE,
            Platform { xen: false, ..TODAY },
            [Off(NoXen), default, default, Off(NoXen)],
        ),
        (
            "the initial domain",
            TMEM,
            Platform { initial_domain: true, ..THEN },
            [Off(InitialDomain), default, default, default],
        ),
        (
            "neither frontswap nor page cache yet",
            NONE,
            Platform { frontswap_built: false, page_cache: false, ..TODAY },
            [default, Off(FrontswapOff), Off(NotBuilt), Off(NoPageCache)],
        ),
    ] {
        assert_eq!(states(select(&options, &platform)), expected, "{what}");
    }
}

#[test]
fn the_originals_rules() {
    let default = On(Default);
    let (second, last) = (Generation::Second, Generation::Last);
    for (what, generation, options, platform, expected) in [
        ("no tmem option", last, NONE, THEN, [Off(TmemNotAsked); 4]),
        ("no tmem option, before", second, NONE, THEN, [Off(TmemNotAsked); 4]),
        ("tmem", last, TMEM, THEN, [default; 4]),
        (
            "tmem.frontswap=0 takes both with it",
            last,
            Options { tmem_frontswap: Some(false), ..TMEM },
            THEN,
            [Off(FrontswapOff), Off(FrontswapOff), Off(FrontswapOption), default],
        ),
        (
            "old options are not read by the last",
            last,
            Options { noselfballooning: true, noselfshrink: true, ..TMEM },
            THEN,
            [default; 4],
        ),
        (
            "and new ones not before",
            second,
            Options { tmem_selfballooning: Some(false), tmem_selfshrinking: Some(false), ..TMEM },
            THEN,
            [default; 4],
        ),
        (
            "old options",
            Generation::First,
            Options { noselfballooning: true, noselfshrink: true, ..TMEM },
            THEN,
            [Off(SelfballooningOption), Off(SelfshrinkOption), default, default],
        ),
        (
            "without frontswap one has to ask",
            second,
            TMEM,
            Platform { frontswap_built: false, ..THEN },
            [Off(SelfballooningOption), Off(NotBuilt), Off(NotBuilt), default],
        ),
        (
            "asked",
            second,
            Options { selfballooning: true, ..TMEM },
            Platform { frontswap_built: false, ..THEN },
            [On(Asked), Off(NotBuilt), Off(NotBuilt), default],
        ),
        (
            "the initial domain",
            last,
            TMEM,
            Platform { initial_domain: true, ..THEN },
            [Off(InitialDomain), Off(InitialDomain), default, default],
        ),
        ("no Xen", last, TMEM, Platform { xen: false, ..THEN }, [Off(NoXen); 4]),
    ] {
        assert_eq!(states(select_original(&options, &platform, generation)), expected, "{what}");
    }
}

#[test]
fn switching_on_at_run_time() {
    assert_eq!(switch_on(&TODAY), Ok(()));
    assert_eq!(switch_on(&Platform { xen: false, ..TODAY }), Err(NoXen));
    assert_eq!(switch_on(&Platform { initial_domain: true, ..TODAY }), Err(InitialDomain));
}

#[test]
fn switches_print_their_reason() {
    assert_eq!(Off(InitialDomain).to_string(), "disabled: not in the initial domain");
    assert_eq!(On(Asked).to_string(), "enabled: asked for on the command line");
}
