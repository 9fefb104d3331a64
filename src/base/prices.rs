//! What requests cost, as the store's price list says, to tell what a mount has cost.

/// In millionths of whatever currency the prices were given in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestPrices {
    /// Of a thousand of each kind.
    puts: u64,
    gets: u64,
    lists: u64,
    deletes: u64,
    /// Of 10^9 bytes that leave the store.
    received: u64,
}

/// What is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priced {
    /// PUT, COPY, POST.
    Put,
    /// GET, HEAD and all other.
    Get,
    List,
    Delete,
}

impl RequestPrices {
    /// From `put=0.005:get=0.0004:list=0.005:delete=0:received=0.09` (commas do as well): prices of a thousand requests,
    /// and of a gigabyte received. What is left out is free, but LIST costs what PUT does.
    ///
    /// # Errors
    /// The text that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut prices = Self::default();
        let mut lists = None;
        for item in text
            .split([',', ':'])
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let (name, value) = item
                .split_once('=')
                .ok_or_else(|| format!("price {item:?}: expected a name and a price, such as get=0.0004"))?;
            let millionths = parse_millionths(value.trim())
                .ok_or_else(|| format!("price {item:?}: expected a decimal number, such as 0.0004"))?;
            match name.trim() {
                "put" => prices.puts = millionths,
                "get" => prices.gets = millionths,
                "list" => lists = Some(millionths),
                "delete" => prices.deletes = millionths,
                "received" => prices.received = millionths,
                _ => {
                    return Err(format!(
                        "price {item:?}: expected put, get, list, delete or received"
                    ));
                }
            }
        }
        prices.lists = lists.unwrap_or(prices.puts);
        Ok(prices)
    }

    /// What so many requests of one kind cost, in millionths of a millionth, so that nothing is rounded.
    #[must_use]
    pub fn of_requests(&self, kind: Priced, requests: u64) -> u128 {
        let millionths = match kind {
            Priced::Put => self.puts,
            Priced::Get => self.gets,
            Priced::List => self.lists,
            Priced::Delete => self.deletes,
        };
        u128::from(millionths) * u128::from(requests) * 1_000
    }

    /// What it costs to receive so many bytes, in millionths of a millionth.
    #[must_use]
    pub fn of_received(&self, bytes: u64) -> u128 {
        u128::from(self.received) * u128::from(bytes) / 1_000
    }
}

/// Millionths of a millionth as a decimal number with six places.
#[must_use]
pub fn show(cost: u128) -> String {
    let millionths = (cost + 500_000) / 1_000_000;
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

fn parse_millionths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let millionths: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    whole.checked_mul(1_000_000)?.checked_add(millionths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_and_what_is_left_out_is_free() {
        let prices = RequestPrices::parse("put=0.005, get=0.0004:received=.09").expect("prices");
        let cost = prices.of_requests(Priced::Put, 2_000)
            + prices.of_requests(Priced::Get, 500)
            + prices.of_requests(Priced::List, 1_000)
            + prices.of_requests(Priced::Delete, 1_000_000)
            + prices.of_received(2_000_000_000);
        assert_eq!(show(cost), "0.195200");
        let prices = RequestPrices::parse("put=1,list=0").expect("prices");
        assert_eq!(prices.of_requests(Priced::List, 1_000), 0);
    }

    #[test]
    fn what_is_no_price_list_is_said_by_its_part() {
        for (text, part) in [
            ("get", "\"get\""),
            ("head=1", "head=1"),
            ("put=-1", "put=-1"),
            ("put=a", "put=a"),
            ("put=.", "put=."),
        ] {
            let message = RequestPrices::parse(text).expect_err(text);
            assert!(message.contains(part), "{message}");
        }
    }
}
