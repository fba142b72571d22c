//! Curves as SVG: latency over throughput, latency over percentiles, and whatever else has a number
//! for each number. Text is left to whoever shows the SVG, so that no font is needed here; for the
//! same reason there is no PNG. Pure: points in, text out.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::report::units;

const SIZE_PIXELS: (u32, u32) = (960, 540);
/// Told apart by eyes that see colours differently (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(160, 150, 0),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// Points at or below 0 have no place on it and are left out.
    Log,
}

/// What the numbers of an axis are, and so how they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Number,
    PerSecond,
    Nanos,
    /// 1 / (1 - quantile): 10 is 90 %, 100 is 99 %.
    OneIn,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub label: String,
    pub scale: Scale,
    pub unit: Unit,
}

/// A line with a name. Numbers that are not finite are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

/// What was measured at one rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub answered_per_second: f64,
    /// In percent, and the latency there.
    pub percentiles: Vec<(f64, Duration)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlotError {
    /// No series has a point that can be shown.
    NoPoints,
    Drawing(String),
}

impl fmt::Display for PlotError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlotError::NoPoints => write!(out, "a plot without a point to show"),
            PlotError::Drawing(why) => write!(out, "drawing a plot: {why}"),
        }
    }
}

impl std::error::Error for PlotError {}

/// Latency over throughput, a series for each percentile that the points have.
pub fn latency_by_throughput(title: &str, points: &[Point]) -> Chart {
    let mut percents: Vec<f64> =
        points.iter().flat_map(|point| &point.percentiles).map(|(percent, _)| *percent).collect();
    percents.sort_by(f64::total_cmp);
    percents.dedup();
    let at = |point: &Point, percent: f64| {
        let found = point.percentiles.iter().find(|(other, _)| *other == percent);
        found.map(|(_, latency)| (point.answered_per_second, latency.as_nanos() as f64))
    };
    let series = percents.into_iter().map(|percent| Series {
        name: format!("p{percent}"),
        points: points.iter().filter_map(|point| at(point, percent)).collect(),
    });
    Chart {
        title: title.to_owned(),
        x: Axis { label: "answers per second".into(), scale: Scale::Linear, unit: Unit::PerSecond },
        y: Axis { label: "latency".into(), scale: Scale::Log, unit: Unit::Nanos },
        series: series.collect(),
    }
}

/// Latency over percentiles, a series for each histogram of nanoseconds, the tail drawn out.
pub fn latency_by_percentile(title: &str, histograms: &[(&str, &Histogram<u64>)]) -> Chart {
    let line = |histogram: &Histogram<u64>| {
        // The last tick is the maximum, at a distance of zero from 100 %: it has no place.
        let ticks = (!histogram.is_empty()).then(|| histogram.iter_quantiles(8));
        let ticks = ticks.into_iter().flatten().filter(|tick| tick.quantile_iterated_to() < 1.0);
        let point = |quantile: f64, nanos: u64| (1.0 / (1.0 - quantile), nanos as f64);
        ticks.map(|tick| point(tick.quantile_iterated_to(), tick.value_iterated_to())).collect()
    };
    let series = histograms
        .iter()
        .map(|(name, histogram)| Series { name: (*name).to_owned(), points: line(histogram) });
    Chart {
        title: title.to_owned(),
        x: Axis { label: "percentile".into(), scale: Scale::Log, unit: Unit::OneIn },
        y: Axis { label: "latency".into(), scale: Scale::Log, unit: Unit::Nanos },
        series: series.collect(),
    }
}

/// The chart as the text of an SVG file.
pub fn svg(chart: &Chart) -> Result<String, PlotError> {
    let shown: Vec<Series> = chart.series.iter().map(|series| chart.visible(series)).collect();
    let points = || shown.iter().flat_map(|series| &series.points);
    let x = range(chart.x.scale, points().map(|point| point.0)).ok_or(PlotError::NoPoints)?;
    let y = range(chart.y.scale, points().map(|point| point.1)).ok_or(PlotError::NoPoints)?;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE_PIXELS).into_drawing_area();
        match (chart.x.scale, chart.y.scale) {
            (Scale::Linear, Scale::Linear) => draw(&area, chart, &shown, x, y),
            (Scale::Linear, Scale::Log) => draw(&area, chart, &shown, x, y.log_scale()),
            (Scale::Log, Scale::Linear) => draw(&area, chart, &shown, x.log_scale(), y),
            (Scale::Log, Scale::Log) => draw(&area, chart, &shown, x.log_scale(), y.log_scale()),
        }?;
        area.present().map_err(drawing)?;
    }
    Ok(text)
}

impl Chart {
    fn visible(&self, series: &Series) -> Series {
        let fits = |scale, value: f64| value.is_finite() && (scale == Scale::Linear || value > 0.0);
        let points = series.points.iter().copied();
        let points = points.filter(|(x, y)| fits(self.x.scale, *x) && fits(self.y.scale, *y));
        Series { name: series.name.clone(), points: points.collect() }
    }
}

/// From least to greatest, with room above. `None`: there is nothing.
fn range(scale: Scale, values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let (least, most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    if least > most {
        return None;
    }
    Some(match scale {
        Scale::Linear => {
            let least = least.min(0.0);
            let width = if most > least { most - least } else { 1.0 };
            least..least + width * 1.05
        }
        Scale::Log => least / 1.2..most * 1.2,
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw<X, Y>(area: &Area<'_>, chart: &Chart, shown: &[Series], x: X, y: Y) -> Result<(), PlotError>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    area.fill(&WHITE).map_err(drawing)?;
    let mut plot = ChartBuilder::on(area)
        .caption(&chart.title, ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(88)
        .build_cartesian_2d(x, y)
        .map_err(drawing)?;
    plot.configure_mesh()
        .x_desc(&chart.x.label)
        .y_desc(&chart.y.label)
        .x_label_formatter(&|value| chart.x.unit.show(*value))
        .y_label_formatter(&|value| chart.y.unit.show(*value))
        .draw()
        .map_err(drawing)?;
    for (series, colour) in shown.iter().zip(COLOURS.into_iter().cycle()) {
        if series.points.is_empty() {
            continue;
        }
        let line = LineSeries::new(series.points.iter().copied(), colour.stroke_width(2));
        plot.draw_series(line)
            .map_err(drawing)?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        let dots = series.points.iter().map(|point| Circle::new(*point, 2, colour.filled()));
        plot.draw_series(dots).map_err(drawing)?;
    }
    plot.configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .map_err(drawing)
}

fn drawing(error: impl fmt::Display) -> PlotError {
    PlotError::Drawing(error.to_string())
}

impl Unit {
    fn show(self, value: f64) -> String {
        let short = |value: f64| {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        match self {
            Unit::Number => short(value),
            Unit::PerSecond => units::count(value.round() as u64),
            Unit::Nanos => {
                let text = units::nanos(value.round() as u64);
                match text.split_once(' ') {
                    Some((number, unit)) => {
                        format!("{} {unit}", short(number.parse().unwrap_or_default()))
                    }
                    None => text,
                }
            }
            Unit::OneIn => {
                let percent = 100.0 - 100.0 / value.max(1.0);
                let text = format!("{percent:.6}");
                format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> Vec<Point> {
        let point = |thousands: u32| {
            let base = Duration::from_micros(100) * thousands * thousands;
            Point {
                answered_per_second: f64::from(thousands) * 1_000.0,
                percentiles: vec![(50.0, base), (99.0, base * 4), (99.9, base * 20)],
            }
        };
        (1..=8).map(point).collect()
    }

    /// The document, its texts, and how many lines of a colour have that many points.
    fn read(svg: &str) -> (Vec<String>, Vec<(String, usize)>) {
        let document = roxmltree::Document::parse(svg);
        let document = document.unwrap_or_else(|error| panic!("{error}: {svg}"));
        assert_eq!(document.root_element().tag_name().name(), "svg");
        let named = |name: &'static str| {
            document.descendants().filter(move |node| node.tag_name().name() == name)
        };
        let texts = named("text").filter_map(|node| node.text()).map(|text| text.trim().to_owned());
        let lines = named("polyline").map(|node| {
            let points = node.attribute("points").unwrap_or_default().split_whitespace().count();
            (node.attribute("stroke").unwrap_or_default().to_owned(), points)
        });
        (texts.collect(), lines.collect())
    }

    #[test]
    fn the_curve_shows_each_percentile_by_name_and_points() {
        let chart = latency_by_throughput("latency <by> throughput & rate", &points());
        let svg = svg(&chart).expect("a plot");
        let (texts, lines) = read(&svg);
        for text in ["latency <by> throughput & rate", "answers per second", "latency"] {
            assert!(texts.iter().any(|found| found == text), "{text}: {texts:?}");
        }
        for (name, colour) in [("p50", "#0072B2"), ("p99", "#D55E00"), ("p99.9", "#009E73")] {
            assert!(texts.iter().any(|found| found == name), "{name}: {texts:?}");
            assert!(lines.contains(&(colour.to_owned(), 8)), "{name}: {lines:?}");
        }
        assert!(texts.iter().any(|text| text == "10 ms"), "{texts:?}");
        assert!(texts.iter().any(|text| text == "4,000"), "{texts:?}");
    }

    #[test]
    fn percentiles_are_drawn_out_towards_the_tail() {
        let mut fast = Histogram::<u64>::new(3).expect("three digits");
        for micros in 1..=100_000 {
            fast.record(micros * 1_000).expect("it grows");
        }
        let mut slow = fast.clone();
        slow.record(1_000_000_000).expect("it grows");
        let chart = latency_by_percentile("tails", &[("fast", &fast), ("slow", &slow)]);
        let (texts, lines) = read(&svg(&chart).expect("a plot"));
        for text in ["tails", "fast", "slow", "90 %", "99 %", "99.9 %", "99.99 %"] {
            assert!(texts.iter().any(|found| found == text), "{text}: {texts:?}");
        }
        let long = lines.iter().filter(|(_, points)| *points > 50).count();
        assert!(long >= 2, "{lines:?}");
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        let axis = |scale| Axis { label: "number".into(), scale, unit: Unit::Number };
        let mut chart = Chart {
            title: "all scales".into(),
            x: axis(Scale::Linear),
            y: axis(Scale::Linear),
            series: vec![Series {
                name: "one".into(),
                points: vec![(0.0, 3.0), (1.0, f64::NAN), (2.0, -4.0), (3.0, 9.0), (4.0, 9.5)],
            }],
        };
        let drawn = |chart: &Chart| {
            let (_, lines) = read(&svg(chart).expect("a plot"));
            lines.into_iter().filter(|(colour, _)| colour == "#0072B2").map(|line| line.1).max()
        };
        assert_eq!(drawn(&chart), Some(4));
        chart.y.scale = Scale::Log;
        assert_eq!(drawn(&chart), Some(3));
        chart.x.scale = Scale::Log;
        assert_eq!(drawn(&chart), Some(2));
        chart.series[0].points.truncate(3);
        assert_eq!(svg(&chart), Err(PlotError::NoPoints));
        chart.series.clear();
        assert_eq!(svg(&chart), Err(PlotError::NoPoints));
        // One point, and points that are all alike.
        for scale in [Scale::Linear, Scale::Log] {
            chart.y.scale = scale;
            for points in [vec![(5.0, 5.0)], vec![(5.0, 5.0); 3]] {
                chart.series = vec![Series { name: "one".into(), points }];
                assert!(svg(&chart).is_ok(), "{chart:?}");
            }
        }
    }
}
