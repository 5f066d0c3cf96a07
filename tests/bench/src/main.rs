//! `bare-loop` measures a lower bound for the cost of the client. It records the requests that the
//! client sends for one sample, and repeats their bytes with plain hyper, without encoding,
//! decoding, rate limits, retries or timeouts.

use clap::Parser;
use tinkers_bench::bare::{self, Load};

/// Send the requests of the client with plain hyper, and print the measurements as one JSON object
#[derive(Debug, Parser)]
struct Arguments {
    /// The base URL of the server, such as http://127.0.0.1:8000
    #[arg(long, value_name = "URL")]
    base_url: String,
    /// The API key
    #[arg(long, value_name = "KEY", default_value = "tml-bench")]
    api_key: String,
    /// The total number of samples
    #[arg(long, value_name = "N", default_value = "1000")]
    requests: u32,
    /// The number of concurrent samples, each with a connection for submissions and one for polls
    #[arg(long, value_name = "C", default_value = "32")]
    concurrency: u32,
    /// The number of tokens in each prompt
    #[arg(long, value_name = "L", default_value = "256")]
    prompt_len: u32,
    /// The maximum number of tokens in each sample
    #[arg(long, value_name = "M", default_value = "256")]
    max_tokens: u32,
    /// Use HTTP/2 with prior knowledge, with up to 50 streams per connection
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
    let report = runtime.block_on(bare::run(load))?;
    print(&report);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the program prints its report")]
fn print(report: &serde_json::Value) {
    println!("{report}");
}
