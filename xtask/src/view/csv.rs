//! `samples.csv`: a timeline as a table, and back.
//!
//! One row is one sample, of a guest or of the host (column `source`), in the order of `at_ms`: milliseconds since the
//! first guest was asked for. A look of the host's has a row for each guest, or one without a name if there was none.
//! The columns of the other side hold its nearest sample, if that is at most [`NEAR_MS`] away, so that each row
//! can be used by itself; what is not known is empty. `docs/running.md` lists the columns.

use super::timeline::{Free, GuestSample, HostPoint, Swap, Timeline, Track};
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;

/// The columns: these, what a guest says of its swap, and these.
const FIRST: [&str; 13] = [
    "at_ms",
    "source",
    "guest",
    "clock_ms",
    "host_kib",
    "host_max_kib",
    "host_free_kib",
    "reservation_kib",
    "target_kib",
    "committed_kib",
    "free_kib",
    "resident_kib",
    "swapped_kib",
];
const LAST: [&str; 3] = ["work", "errors", "phase"];
/// How far the other side's sample may be away.
const NEAR_MS: u64 = 1_000;
/// What `source` says of a guest's sample, and of the host's.
const GUEST: &str = "guest";
const HOST: &str = "host";

/// Writes the table.
pub(crate) fn write(timeline: &Timeline) -> String {
    let mut rows: Vec<(u64, String)> = Vec::new();
    for track in &timeline.guests {
        for sample in &track.samples {
            let host = nearest(&track.host, sample.at_ms, |point| point.at_ms);
            let free = nearest(&timeline.free, sample.at_ms, |free| free.at_ms);
            let own = (sample.at_ms, GUEST, sample.own_ms);
            rows.push((sample.at_ms, row(own, &track.name, host, free, Some(sample))));
        }
        for point in &track.host {
            let sample = nearest(&track.samples, point.at_ms, |sample| sample.at_ms);
            let free = timeline.free.iter().find(|free| free.own_ms == point.own_ms);
            let own = (point.at_ms, HOST, point.own_ms);
            rows.push((point.at_ms, row(own, &track.name, Some(point), free, sample)));
        }
    }
    for free in timeline.free.iter().filter(|free| timeline.held_kib(free.own_ms).is_none()) {
        rows.push((free.at_ms, row((free.at_ms, HOST, free.own_ms), "", None, Some(free), None)));
    }
    // Rows of the same instant stay in the order of the guests.
    rows.sort_by_key(|(at_ms, _)| *at_ms);
    let mut text = [&FIRST[..], &Swap::NAMES, &LAST].concat().join(",") + "\n";
    text.extend(rows.into_iter().map(|(_, row)| row));
    text
}

fn row(
    (at_ms, source, clock_ms): (u64, &str, u64),
    name: &str,
    host: Option<&HostPoint>,
    free: Option<&Free>,
    guest: Option<&GuestSample>,
) -> String {
    let mut row = format!("{at_ms},{source},{},{clock_ms}", field(name));
    let mut number = |value: Option<u64>| {
        row.push(',');
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = write!(row, "{value}");
        }
    };
    number(host.map(|host| host.kib));
    number(host.map(|host| host.max_kib));
    number(free.map(|free| free.kib));
    let of = |value: fn(&GuestSample) -> Option<u64>| guest.and_then(value);
    number(of(|sample| sample.reservation_kib));
    number(of(|sample| sample.target_kib));
    number(of(|sample| sample.committed_kib));
    number(of(|sample| sample.free_kib));
    number(of(|sample| sample.resident_kib));
    number(of(|sample| sample.swapped_kib));
    guest.map(|sample| sample.swap).unwrap_or_default().values().into_iter().for_each(&mut number);
    number(of(|sample| sample.work));
    number(of(|sample| sample.errors));
    let phase = guest.and_then(|sample| sample.phase.as_deref()).unwrap_or_default();
    row + "," + &field(phase) + "\n"
}

/// The nearest in time, if it is near.
fn nearest<T>(items: &[T], at_ms: u64, time: impl Fn(&T) -> u64) -> Option<&T> {
    let behind = items.partition_point(|item| time(item) <= at_ms);
    let candidates = items.get(behind.saturating_sub(1)..(behind + 1).min(items.len()))?;
    let item = candidates.iter().min_by_key(|item| time(item).abs_diff(at_ms))?;
    (time(item).abs_diff(at_ms) <= NEAR_MS).then_some(item)
}

/// A text as a field: what would break the table's grammar is replaced. A guest's words are not to be trusted.
fn field(text: &str) -> String {
    let harmless = |c: char| if c == ',' || c == '"' || c.is_control() { '_' } else { c };
    text.chars().map(harmless).collect()
}

/// Reads a table. Columns that are not known are ignored, those that are missing are empty.
///
/// # Errors
///
/// If it is no such table; the message names the line.
pub(crate) fn read(text: &str) -> Result<Timeline> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().context("an empty file")?.split(',').collect();
    for wanted in ["at_ms", "source", "guest"] {
        ensure!(header.contains(&wanted), "the first line names no column {wanted}");
    }
    let mut timeline = Timeline::default();
    for (number, line) in (2..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').collect();
        let row = Row { header: &header, fields: &fields };
        add(&mut timeline, &row).with_context(|| format!("line {number}"))?;
    }
    Ok(timeline)
}

fn add(timeline: &mut Timeline, row: &Row<'_>) -> Result<()> {
    ensure!(row.fields.len() == row.header.len(), "{} fields, not {}", row.fields.len(), row.header.len());
    let at_ms = row.number("at_ms")?.context("at_ms is empty")?;
    let own_ms = row.number("clock_ms")?.unwrap_or(at_ms);
    let name = row.text("guest");
    match row.text("source") {
        GUEST => {
            let phase = Some(row.text("phase")).filter(|phase| !phase.is_empty()).map(str::to_owned);
            let sample = GuestSample {
                at_ms,
                own_ms,
                committed_kib: row.number("committed_kib")?,
                reservation_kib: row.number("reservation_kib")?,
                target_kib: row.number("target_kib")?,
                free_kib: row.number("free_kib")?,
                resident_kib: row.number("resident_kib")?,
                swapped_kib: row.number("swapped_kib")?,
                swap: Swap::read(|name| row.number(name))?,
                work: row.number("work")?,
                errors: row.number("errors")?,
                phase,
            };
            track(timeline, name).samples.push(sample);
        }
        HOST => {
            if let Some(kib) = row.number("host_free_kib")?
                && timeline.free.last().is_none_or(|last| last.own_ms != own_ms)
            {
                timeline.free.push(Free { at_ms, own_ms, kib });
            }
            if let Some(kib) = row.number("host_kib")? {
                let max_kib = row.number("host_max_kib")?.unwrap_or(kib);
                track(timeline, name).host.push(HostPoint { at_ms, own_ms, kib, max_kib });
            }
        }
        other => bail!("source is {other:?}, neither {GUEST} nor {HOST}"),
    }
    Ok(())
}

/// The track of this name; a new one comes last.
fn track<'t>(timeline: &'t mut Timeline, name: &str) -> &'t mut Track {
    let at = timeline.guests.iter().position(|track| track.name == name).unwrap_or_else(|| {
        timeline.guests.push(Track { name: name.to_owned(), ..Track::default() });
        timeline.guests.len() - 1
    });
    &mut timeline.guests[at]
}

/// One line of a table.
struct Row<'r> {
    header: &'r [&'r str],
    fields: &'r [&'r str],
}

impl Row<'_> {
    fn text(&self, column: &str) -> &str {
        let at = self.header.iter().position(|name| *name == column);
        at.and_then(|at| self.fields.get(at)).copied().unwrap_or_default()
    }

    fn number(&self, column: &str) -> Result<Option<u64>> {
        match self.text(column) {
            "" => Ok(None),
            text => text.parse().map(Some).with_context(|| format!("{column} is {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let sample = |at_ms, phase: &str| GuestSample {
            at_ms,
            own_ms: at_ms - 300,
            reservation_kib: Some(1000 + at_ms),
            swap: Swap { pool_kib: Some(at_ms / 10), stalled: Some(0), ..Swap::default() },
            work: Some(at_ms),
            phase: (!phase.is_empty()).then(|| phase.to_owned()),
            ..GuestSample::default()
        };
        let point = |at_ms, kib| HostPoint { at_ms, own_ms: at_ms + 7, kib, max_kib: 9000 };
        let free = |at_ms, kib| Free { at_ms, own_ms: at_ms + 7, kib };
        let one = Track {
            name: "ebb-1".into(),
            samples: vec![sample(800, "load"), sample(1300, "")],
            host: vec![point(500, 1500), point(1000, 2000)],
        };
        let two = Track { name: "ebb-2".into(), samples: vec![], host: vec![point(1000, 100)] };
        Timeline { guests: vec![one, two], free: vec![free(10, 5000), free(500, 3500), free(1000, 2900)] }
    }

    #[test]
    fn a_table_has_a_row_for_each_sample_with_the_other_side_joined() {
        let text = write(&timeline());
        let expected = "\
at_ms,source,guest,clock_ms,host_kib,host_max_kib,host_free_kib,reservation_kib,target_kib,committed_kib,free_kib,resident_kib,swapped_kib,same_kib,pool_kib,pool_frames_kib,tmem_kib,swap_outs,swap_ins,swap_home,stalled,work,errors,phase
10,host,,17,,,5000,,,,,,,,,,,,,,,,,
500,host,ebb-1,507,1500,9000,3500,1800,,,,,,,80,,,,,,0,800,,load
800,guest,ebb-1,500,2000,9000,2900,1800,,,,,,,80,,,,,,0,800,,load
1000,host,ebb-1,1007,2000,9000,2900,1800,,,,,,,80,,,,,,0,800,,load
1000,host,ebb-2,1007,100,9000,2900,,,,,,,,,,,,,,,,,
1300,guest,ebb-1,1000,2000,9000,2900,2300,,,,,,,130,,,,,,0,1300,,
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_written_is_read() {
        for whole in [timeline(), Timeline::default()] {
            assert_eq!(read(&write(&whole)).unwrap(), whole);
        }
    }

    #[test]
    fn a_table_from_before_there_was_swap_is_read() {
        let old = "at_ms,source,guest,host_kib,swapped_kib,work\n5,guest,ebb,,12,7\n";
        let sample = &read(old).unwrap().guests[0].samples[0];
        assert_eq!((sample.swapped_kib, sample.swap, sample.work), (Some(12), Swap::default(), Some(7)));
    }

    #[test]
    fn far_samples_are_not_joined() {
        let mut far = timeline();
        far.guests[0].host.clear();
        far.free.clear();
        far.guests[0].samples[0].at_ms = 1000 + NEAR_MS;
        far.guests[1].host[0].at_ms = 1;
        let text = write(&far);
        assert!(text.contains("\n2000,guest,ebb-1,500,,,,1800,"), "{text}");
        assert!(text.contains("\n1,host,ebb-2,1007,100,9000,,,"), "{text}");
    }

    #[test]
    fn a_guests_words_cannot_break_the_table() {
        let mut hostile = timeline();
        hostile.guests[0].samples[0].phase = Some("a,b\n\"c".into());
        let read = read(&write(&hostile)).unwrap();
        assert_eq!(read.guests[0].samples[0].phase.as_deref(), Some("a_b__c"));
    }

    #[test]
    fn what_is_no_table_is_an_error_that_names_the_line() {
        assert!(read("").is_err());
        assert!(read("a,b\n").is_err());
        let header = "at_ms,source,guest,host_kib,more\n";
        assert_eq!(read(header).unwrap(), Timeline::default());
        for bad in ["1,host,a", "x,host,a,1,", ",host,a,1,", "1,moon,a,1,", "1,host,a,-1,", "1,host,a,1,,"] {
            let error = read(&format!("{header}0,host,a,1,z\n{bad}\n")).unwrap_err();
            assert_eq!(error.to_string(), "line 3", "{bad}");
        }
    }
}
