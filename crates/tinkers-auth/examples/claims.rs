//! Prints the claims of a JWT: when it expires, and who its user is.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

use tinkers_auth::Claims;

fn main() {
    // {"sub":"user-1","exp":1700003600,"iat":1700000000}
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyLTEiLCJleHAiOjE3MDAwMDM2MDAsImlhdCI6MTcwMDAwMDAwMH0.c2lnbmF0dXJl";
    let Some(claims) = Claims::of(token) else {
        println!("not a JWT");
        return;
    };
    println!("lifetime: {:?}", claims.lifetime());
    println!("expires at: {:?}", claims.expires_at());
    println!("user: {:?}", claims.identity());
}
