//! The boot options of both generations of the original, as they stand on the command line.

use crate::cmdline::{Item, Kind, Opt, Value};
use policy::boot::Options;

const fn switch(name: &'static str, help: &'static str) -> Opt {
    Opt { name, kind: Kind::Switch, help }
}

/// The options.
pub static BOOT_OPTIONS: &[Opt] = &[
    switch("tmem", "use the hypervisor's transcendent memory, where it has any"),
    switch("tmem.selfballooning", "0: the guest does not choose its own memory target"),
    switch("tmem.selfshrinking", "0: pages are not brought home from frontswap"),
    switch("tmem.selfshrink", "the same as tmem.selfshrinking"),
    switch("tmem.frontswap", "0: pages do not go to frontswap"),
    switch("tmem.cleancache", "0: clean pages do not go to cleancache"),
    switch("noselfballooning", "the same as tmem.selfballooning=0"),
    switch("selfballooning", "the same as tmem.selfballooning"),
    switch("noselfshrink", "the same as tmem.selfshrinking=0"),
];

/// Takes the value of an option of [`BOOT_OPTIONS`], and answers whether it was one.
pub fn boot_option(options: &mut Options, item: &Item<'_>) -> bool {
    let Item::Option(opt, Value::Switch(on)) = item else { return false };
    match opt.name {
        "tmem" => options.tmem = *on,
        "tmem.selfballooning" => options.tmem_selfballooning = Some(*on),
        "tmem.selfshrinking" | "tmem.selfshrink" => options.tmem_selfshrinking = Some(*on),
        "tmem.frontswap" => options.tmem_frontswap = Some(*on),
        "tmem.cleancache" => options.tmem_cleancache = Some(*on),
        "noselfballooning" => options.noselfballooning = *on,
        "selfballooning" => options.selfballooning = *on,
        "noselfshrink" => options.noselfshrink = *on,
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::parse;

    fn read(line: &str) -> Options {
        let mut options = Options::default();
        parse(line, &[BOOT_OPTIONS], |item| {
            assert!(boot_option(&mut options, &item), "{item:?}");
        });
        options
    }

    #[test]
    fn every_option_is_taken() {
        let names: std::vec::Vec<_> = BOOT_OPTIONS.iter().map(|opt| opt.name).collect();
        let options = read(&names.join(" "));
        let expected = Options {
            tmem: true,
            tmem_selfballooning: Some(true),
            tmem_selfshrinking: Some(true),
            tmem_frontswap: Some(true),
            tmem_cleancache: Some(true),
            noselfballooning: true,
            selfballooning: true,
            noselfshrink: true,
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn both_spellings_of_selfshrinking_mean_the_same() {
        assert_eq!(read("tmem.selfshrink=0"), read("tmem.selfshrinking=0"));
        assert_eq!(read("tmem.selfshrink=0").tmem_selfshrinking, Some(false));
        assert_eq!(read(""), Options::default());
    }
}
