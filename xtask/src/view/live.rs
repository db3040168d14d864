//! The run as it goes: a chart at the bottom of a terminal, under which nothing is; or plain lines.

use super::record::Recorder;
use super::terminal;
use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A chart is drawn anew at most so often.
const REDRAW: Duration = Duration::from_millis(250);
/// A plain line of figures comes at most so often,
const LINE: Duration = Duration::from_secs(1);
/// and at least so often while there are new samples that say the same.
const SAME_LINE: Duration = Duration::from_secs(10);
/// The size of a terminal that does not say its size.
const USUAL: (usize, usize) = (80, 24);

/// Where a run is shown.
#[derive(Debug)]
pub(crate) enum View {
    /// On a terminal.
    Chart(Chart),
    /// In a file or a pipe.
    Lines(Lines),
    /// Nowhere: somebody else uses the figures.
    Nothing,
}

impl View {
    /// A chart if a person is looking at a terminal that can show it, else lines.
    pub(crate) fn new() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if std::io::stdout().is_terminal() && std::io::stderr().is_terminal() && colours && !dumb {
            Self::Chart(Chart::new())
        } else {
            Self::Lines(Lines::default())
        }
    }

    /// How long one may wait before the next [`View::update`].
    pub(crate) fn patience(&self) -> Duration {
        match self {
            Self::Chart(chart) if chart.waiting() => REDRAW,
            _ => LINE,
        }
    }

    /// Shows a line of a guest's text.
    pub(crate) fn text(&mut self, line: String) {
        match self {
            Self::Chart(chart) => chart.above.push(line),
            Self::Lines(_) => println!("{line}"),
            Self::Nothing => {}
        }
    }

    /// Says something about the run itself.
    pub(crate) fn note(&mut self, words: &str) {
        for line in words.lines() {
            match self {
                Self::Chart(chart) => chart.above.push(format!("run: {line}")),
                Self::Lines(_) => eprintln!("run: {line}"),
                Self::Nothing => {}
            }
        }
    }

    /// Shows what is new, if it is time.
    pub(crate) fn update(&mut self, recorder: &Recorder) {
        match self {
            Self::Chart(chart) => chart.update(recorder, Instant::now()),
            Self::Lines(lines) => {
                for line in lines.update(recorder, Instant::now()) {
                    println!("{line}");
                }
            }
            Self::Nothing => {}
        }
    }

    /// Shows the last of it, whatever the time.
    pub(crate) fn finish(&mut self, recorder: &Recorder) {
        if let Self::Chart(chart) = self {
            chart.draw(recorder);
        }
    }
}

/// Lines of figures.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    said: Option<(Instant, Vec<String>)>,
    samples: usize,
}

impl Lines {
    /// The lines that are due now: one for each guest that has figures.
    fn update(&mut self, recorder: &Recorder, now: Instant) -> Vec<String> {
        let since = self.said.as_ref().map(|(at, _)| now.saturating_duration_since(*at));
        if recorder.len() == self.samples || since.is_some_and(|since| since < LINE) {
            return Vec::new();
        }
        let timeline = recorder.timeline();
        let only = timeline.guests.len() == 1;
        let widest = timeline.guests.iter().map(|track| track.name.len()).max().unwrap_or_default();
        let of = |track| Some((track, terminal::figures(track)?));
        let figures: Vec<String> = timeline
            .guests
            .iter()
            .filter(|track| only || !timeline.is_gone(track))
            .filter_map(of)
            .map(|(track, figures)| if only { figures } else { format!("{:widest$}  {figures}", track.name) })
            .collect();
        let same = self.said.as_ref().is_some_and(|(_, said)| *said == figures);
        if figures.is_empty() || same && since.is_some_and(|since| since < SAME_LINE) {
            return Vec::new();
        }
        self.samples = recorder.len();
        let seconds = timeline.end_ms() as f64 / 1000.0;
        let lines = figures.iter().map(|figures| format!("{seconds:>8.1} s  {figures}")).collect();
        self.said = Some((now, figures));
        lines
    }
}

/// A chart that stays at the bottom while text goes up above it.
#[derive(Debug)]
pub(crate) struct Chart {
    /// Text that is to be shown at the next drawing.
    above: Vec<String>,
    /// How many rows the chart has that is shown.
    drawn: usize,
    samples: usize,
    last: Option<Instant>,
    size: (usize, usize),
    resized: Arc<AtomicBool>,
}

impl Chart {
    fn new() -> Self {
        let resized = Arc::new(AtomicBool::new(false));
        // Without the signal the chart keeps the size that the terminal has now.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGWINCH, Arc::clone(&resized));
        Self { above: Vec::new(), drawn: 0, samples: 0, last: None, size: size(), resized }
    }

    fn waiting(&self) -> bool {
        !self.above.is_empty()
    }

    fn update(&mut self, recorder: &Recorder, now: Instant) {
        let news = self.waiting() || recorder.len() != self.samples;
        if news && self.last.is_none_or(|last| now.saturating_duration_since(last) >= REDRAW) {
            self.last = Some(now);
            self.draw(recorder);
        }
    }

    fn draw(&mut self, recorder: &Recorder) {
        if self.resized.swap(false, Ordering::Relaxed) {
            self.size = size();
        }
        self.samples = recorder.len();
        let frame = if self.samples == 0 {
            Vec::new()
        } else {
            terminal::frame(&recorder.timeline(), self.size.0, self.size.1)
        };
        let text = redraw(self.drawn, &self.above, &frame);
        self.above.clear();
        self.drawn = frame.len();
        let mut out = std::io::stdout().lock();
        // A terminal that is gone is no reason to end the run.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// What to send to a terminal whose last `drawn` rows are a chart: text goes above, a new chart below.
fn redraw(drawn: usize, above: &[String], frame: &[String]) -> String {
    let mut text = String::new();
    if drawn > 0 {
        // Up to the chart's first row, and away with it.
        text.push_str(&format!("\x1b[{drawn}A"));
    }
    text.push_str("\r\x1b[J");
    for line in above {
        // A guest that sets a colour and forgets it colours its own line only.
        text.push_str(line);
        text.push_str("\x1b[0m\n");
    }
    for row in frame {
        text.push_str(row);
        text.push('\n');
    }
    text
}

/// The terminal's columns and rows, as `stty` knows them.
fn size() -> (usize, usize) {
    let output = Command::new("stty").arg("size").stdin(Stdio::inherit()).stderr(Stdio::null()).output();
    output.ok().and_then(|output| parse_size(&String::from_utf8_lossy(&output.stdout))).unwrap_or(USUAL)
}

fn parse_size(text: &str) -> Option<(usize, usize)> {
    let mut numbers = text.split_whitespace().map(str::parse::<usize>);
    let (rows, columns) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (rows > 0 && columns > 0).then_some((columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebb_dom0::{Domain, Sample};

    #[test]
    fn text_goes_above_the_chart() {
        let rows = |rows: &[&str]| rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>();
        assert_eq!(redraw(0, &rows(&["one"]), &rows(&["a", "b"])), "\r\x1b[Jone\x1b[0m\na\nb\n");
        assert_eq!(redraw(2, &[], &rows(&["c"])), "\x1b[2A\r\x1b[Jc\n");
    }

    #[test]
    fn a_terminal_says_rows_first() {
        assert_eq!(parse_size("24 80\n"), Some((80, 24)));
        for bad in ["", "24", "0 0", "x y"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lines_come_every_second_and_seldom_if_nothing_changes() {
        let epoch = Instant::now();
        let after = |ms| epoch + Duration::from_millis(ms);
        let mut recorder = Recorder::new(epoch, ["ebb".to_owned()]);
        recorder.started(0, 1);
        let mut lines = Lines::default();
        let mut said = Vec::new();
        for number in 0..60_u64 {
            let kib = if number < 10 { 2048 } else { 1024 };
            let domains = vec![Domain { domid: 1, kib, max_kib: 4096 }];
            recorder.host(
                after(number * 500),
                Sample { seq: number, at_ns: number * 500_000_000, free_kib: 0, domains },
            );
            said.extend(lines.update(&recorder, after(number * 500)));
            assert!(lines.update(&recorder, after(number * 500 + 400)).is_empty(), "no new sample");
        }
        assert_eq!(
            said,
            [
                "     0.0 s  host     2.0  MiB",
                "     5.0 s  host     1.0  MiB",
                "    15.0 s  host     1.0  MiB",
                "    25.0 s  host     1.0  MiB"
            ]
        );
    }

    #[test]
    fn nothing_is_said_before_there_is_something() {
        let recorder = Recorder::new(Instant::now(), ["ebb".to_owned()]);
        assert!(Lines::default().update(&recorder, Instant::now()).is_empty());
    }
}
