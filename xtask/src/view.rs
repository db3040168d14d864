//! What a run looks like: samples of guests and host, put on one clock, as a live picture, as a table and as a chart.
//!
//! [`record::Recorder`] takes samples as they arrive and makes a [`timeline::Timeline`] of them; everything else looks
//! at a timeline: [`figures`] computes, [`csv`] keeps, [`chart`] draws, [`live`] shows while it grows.

mod agree;
mod canvas;
mod chart;
mod clock;
pub(crate) mod csv;
pub(crate) mod figures;
pub(crate) mod live;
mod panel;
pub(crate) mod record;
mod scale;
mod svg;
mod swap;
mod terminal;
pub(crate) mod timeline;

pub(crate) use agree::STEP_KIB;
pub(crate) use chart::draw;
