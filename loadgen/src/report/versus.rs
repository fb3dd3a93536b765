//! Figures as a Markdown block, with the ratios to the transport's ceiling where it was measured in the same run.

use std::fmt::Write as _;

use crate::bench::Figures;
use crate::ceiling::Ceiling;
use crate::plan::{Plan, Throughput};

/// Figures of the gateway beside those of bare quinn.
pub(crate) fn comparison(plan: &Plan, ceiling: &Ceiling, gateway: &Figures) -> String {
    let mut out = String::new();
    let mut row = |what: &str, bare: Option<f64>, ours: Option<f64>, digits: usize| {
        let number = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.digits$}"));
        let ratio = bare.zip(ours).map_or_else(
            || "-".to_owned(),
            |(bare, ours)| format!("{:.2}", ours / bare),
        );
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {what} | {} | {} | {ratio} |",
            number(bare),
            number(ours)
        );
    };
    let (bare, ours) = (&ceiling.ramp, &gateway.ramp);
    row(
        "handshakes / log-ins a second",
        Some(bare.per_second),
        Some(ours.per_second),
        0,
    );
    row(
        "server CPU of one, us",
        bare.server_us_each,
        ours.server_us_each,
        0,
    );
    row(
        "resident KiB for an idle connection",
        bare.kib_per_connection,
        ours.kib_per_connection,
        1,
    );
    let (echo, most) = (&ceiling.echo, &gateway.most);
    row(
        "round trips / messages a second",
        Some(echo.per_second),
        Some(most.per_second),
        0,
    );
    row("p50, ms", Some(echo.ack.p50_ms), p50(most), 2);
    row("p99, ms", Some(echo.ack.p99_ms), p99(most), 2);
    row(
        "server CPU of one, us",
        echo.server_us_each,
        most.server_us_each,
        1,
    );
    row(
        "processors busy in the server",
        echo.server_cores,
        most.server_cores,
        2,
    );
    row(
        "processors busy in the generator",
        Some(echo.generator_cores),
        Some(most.generator_cores),
        2,
    );
    format!(
        "{} connections, {} pairs, {} messages of a pair under way, texts of {} bytes, {} s\n\n\
         | | bare quinn echo | gateway | ratio |\n|---|---|---|---|\n{out}\n{}",
        plan.connections,
        plan.pairs,
        plan.outstanding,
        plan.bytes,
        plan.seconds,
        latencies(gateway)
    )
}

/// Figures of the gateway alone.
pub(crate) fn alone(plan: &Plan, gateway: &Figures) -> String {
    let ramp = &gateway.ramp;
    format!(
        "{} connections, {} pairs, {} messages of a pair under way, texts of {} bytes, {} s\n\n\
         {:.0} log-ins/s ({} us of server CPU each), {} KiB resident for an idle connection\n\n{}",
        plan.connections,
        plan.pairs,
        plan.outstanding,
        plan.bytes,
        plan.seconds,
        ramp.per_second,
        optional(ramp.server_us_each, 0),
        optional(ramp.kib_per_connection, 1),
        latencies(gateway)
    )
}

fn latencies(gateway: &Figures) -> String {
    let mut out = String::from(
        "| durable messages, acked both ways | a second | send to ack p50 / p99 / p99.9 / max ms | send to delivery | \
         server us each | server / generator cores |\n|---|---|---|---|---|---|\n",
    );
    let most = ("closed loop", &gateway.most);
    let paced = ("open loop", &gateway.paced);
    for (name, load) in [most, paced] {
        let offered = load
            .offered_per_second
            .map_or(String::new(), |rate| format!(" at {rate:.0}/s"));
        let delivery = load
            .delivery
            .as_ref()
            .map_or_else(|| "-".to_owned(), points);
        let _ = writeln!(
            out,
            "| {name}{offered} | {:.0} | {} | {delivery} | {} | {} / {:.2} |",
            load.per_second,
            points(&load.ack),
            optional(load.server_us_each, 1),
            optional(load.server_cores, 2),
            load.generator_cores,
        );
    }
    let _ = writeln!(out, "\n{}", verdict(gateway));
    out
}

fn verdict(gateway: &Figures) -> String {
    let mut text = match gateway.verdicts.clean() {
        true => format!("{} messages verified, no fault.", gateway.verified),
        false => format!(
            "FAULTS in {} messages: {:?}",
            gateway.verified, gateway.verdicts
        ),
    };
    if gateway.shed > 0 {
        let _ = write!(
            text,
            " {} sends left out: the gateway was too far behind.",
            gateway.shed
        );
    }
    if let Some(why) = &gateway.invalid {
        let _ = write!(text, " INVALID: {why}.");
    }
    text
}

fn points(p: &crate::percentiles::Percentiles) -> String {
    format!(
        "{:.2} / {:.2} / {:.2} / {:.1}",
        p.p50_ms, p.p99_ms, p.p999_ms, p.max_ms
    )
}

fn p50(load: &Throughput) -> Option<f64> {
    load.delivery.as_ref().map(|p| p.p50_ms)
}

fn p99(load: &Throughput) -> Option<f64> {
    load.delivery.as_ref().map(|p| p.p99_ms)
}

fn optional(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |n| format!("{n:.digits$}"))
}
