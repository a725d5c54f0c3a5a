//! Topics of typed values: orders as JSON, what they come to as protocol buffers. What somebody else appended, and is no
//! order, is told with its offset, and stepped over.
//!
//!     cargo run --example typed --features json,protobuf

use std::collections::BTreeMap;

use chiplog::typed::{Json, Protobuf};
use chiplog::{Error, Log, Offset, Record};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    customer: String,
    /// How many of each, and what one costs, in cents.
    items: BTreeMap<String, (u32, u64)>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Bill {
    #[prost(string, tag = "1")]
    customer: String,
    #[prost(uint64, tag = "2")]
    cents: u64,
    /// The order that it is for.
    #[prost(uint64, tag = "3")]
    order: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let log = Log::open(dir.path())?;
    let orders = log.topic("orders")?.typed::<Order, Json>();
    let bills = log.topic("bills")?.typed::<Bill, Protobuf>();

    let order = |customer: &str, items: &[(&str, u32, u64)]| Order {
        customer: customer.into(),
        items: items.iter().map(|(item, count, cents)| ((*item).into(), (*count, *cents))).collect(),
    };
    orders.append_keyed("ann", &order("ann", &[("tea", 2, 480), ("cup", 1, 1250)]))?;
    orders.topic().append(Record::new("two cups, please").key("bob"))?; // not through this program
    orders.append_keyed("bob", &order("bob", &[("cup", 2, 1250)]))?;

    let mut stepped_over = 0;
    let records = orders.topic().partition(0)?.read(Offset::ZERO)?;
    for record in orders.iter(&records) {
        match record.value {
            Ok(Some(Order { customer, items })) => {
                let cents = items.values().map(|(count, cents)| u64::from(*count) * cents).sum();
                bills.append_keyed(&customer, &Bill { customer: customer.clone(), cents, order: record.offset.0 })?;
            }
            Ok(None) => {}
            Err(error @ Error::NotDecoded { .. }) => {
                println!("stepped over: {error}");
                stepped_over += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }

    let records = bills.topic().partition(0)?.read(Offset::ZERO)?;
    let read: Result<Vec<_>, _> = bills.iter(&records).map(|record| record.value).collect();
    let read: Vec<Bill> = read?.into_iter().flatten().collect();
    for Bill { customer, cents, order } in &read {
        println!("order {order}: {customer} owes {}.{:02}", cents / 100, cents % 100);
    }
    let expected = [("ann", 2210, 0), ("bob", 2500, 2)];
    assert!(read.iter().map(|bill| (&*bill.customer, bill.cents, bill.order)).eq(expected));
    assert_eq!(stepped_over, 1);
    Ok(())
}
