//! `axon_info.json`: addresses and the texts of an axon's info.

use schwann_synapse::{
    axon_info::{AxonInfo, ip_from_int, ip_to_int, parse_ip, version_as_int},
    python::{Dict, Value},
};

use crate::set::{self, Kind, get, holds, same, text};

pub(crate) const KIND: Kind = Kind {
    name: "axon_info",
    sections: &[
        ("ip", ip),
        ("odd_ip_inputs", odd),
        ("to_string_example", to_string),
        ("str_example", shown),
        ("roundtrip_equal", roundtrip),
        ("is_serving_rule", serving),
        ("version_as_int", version),
    ],
};

#[test]
fn addresses_and_infos_are_those_of_the_sdk() {
    set::check(&KIND);
}

fn ip(entry: &Value, _: &Dict) -> Result<(), String> {
    let ip = parse_ip(text(entry, "str")?).map_err(|error| error.to_string())?;
    let info = AxonInfo::new(ip, 8091, "5F");
    same("the integer", ip_to_int(ip).to_string().as_str(), text(entry, "int")?)?;
    same(
        "back from the integer",
        ip_from_int(ip_to_int(ip)).to_string().as_str(),
        text(entry, "int_to_ip")?,
    )?;
    same("the version", &Value::from(u32::from(info.ip_type())), get(entry, "version")?)?;
    same("the text", info.ip_str().as_str(), text(entry, "ip_str_8091")?)
}

fn odd(entry: &Value, _: &Dict) -> Result<(), String> {
    match (parse_ip(text(entry, "str")?), set::maybe(entry, "error")) {
        (Err(_), Some(_)) => Ok(()),
        (Ok(ip), None) => match set::maybe(entry, "int") {
            Some(int) => same("the integer", ip_to_int(ip).to_string(), int.py_str()),
            None => Ok(()),
        },
        (got, expected) => Err(format!("got {got:?}, expected {expected:?}")),
    }
}

fn info(file: &Dict) -> Result<AxonInfo, String> {
    let json = file.get("to_string_example").and_then(Value::as_str).ok_or("no example")?;
    AxonInfo::parse_json(json).map_err(|error| error.to_string())
}

fn to_string(entry: &Value, file: &Dict) -> Result<(), String> {
    same("to_string", Some(info(file)?.to_json().as_str()), entry.as_str())
}

fn shown(entry: &Value, file: &Dict) -> Result<(), String> {
    same("str()", Some(info(file)?.to_string().as_str()), entry.as_str())
}

fn roundtrip(entry: &Value, file: &Dict) -> Result<(), String> {
    let (info, mut other) = (info(file)?, info(file)?);
    other.protocol += 1;
    other.placeholder1 += 1;
    same("equal", &Value::Bool(info == other), entry)
}

fn serving(entry: &Value, _: &Dict) -> Result<(), String> {
    same("the rule", entry.as_str(), Some("ip != '0.0.0.0'"))?;
    let serves = |ip: &str| AxonInfo::new(ip.parse().unwrap(), 1, "").is_serving();
    holds(!serves("0.0.0.0") && serves("0.0.0.1") && serves("::"), || "the rule is not kept".into())
}

fn version(entry: &Value, _: &Dict) -> Result<(), String> {
    let int = version_as_int(text(entry, "version")?).ok_or("no version")?;
    same("the integer", &Value::from(int), get(entry, "int")?)
}
