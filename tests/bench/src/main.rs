//! `bare-loop`: the floor under the client. It lets the client make one sample, records what that sent, and then sends the same
//! bytes as often as asked, with hyper alone: no encoding, no decoding, no limits, no retries, no time limits.

use clap::Parser;
use tinkers_bench::bare::{self, Load};

/// Send what the client sends, with hyper alone, and print one JSON object.
#[derive(Debug, Parser)]
struct Arguments {
    /// The server, as in http://127.0.0.1:8000
    #[arg(long, value_name = "URL")]
    base_url: String,
    /// The key that is sent
    #[arg(long, value_name = "KEY", default_value = "tml-bench")]
    api_key: String,
    /// Samples in all
    #[arg(long, value_name = "N", default_value = "1000")]
    requests: u32,
    /// Samples under way at once, each with a connection to submit on and one to poll on
    #[arg(long, value_name = "C", default_value = "32")]
    concurrency: u32,
    /// Tokens in each prompt
    #[arg(long, value_name = "L", default_value = "256")]
    prompt_len: u32,
    /// The most tokens in each sample
    #[arg(long, value_name = "M", default_value = "256")]
    max_tokens: u32,
    /// HTTP/2 from the first byte, 50 streams on a connection
    #[arg(long)]
    http2: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let load = Load {
        base_url: arguments.base_url,
        api_key: arguments.api_key,
        requests: arguments.requests,
        concurrency: arguments.concurrency,
        prompt_len: arguments.prompt_len,
        max_tokens: arguments.max_tokens,
        http2: arguments.http2,
    };
    let told = runtime.block_on(bare::run(load))?;
    print(&told);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result is what the program is for")]
fn print(told: &serde_json::Value) {
    println!("{told}");
}
