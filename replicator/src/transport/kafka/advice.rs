//! What to do about what the client library says.

/// What is to be looked at for a reason it gives; `None` where its own words have to do.
pub fn advice(reason: &str) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|words| reason.contains(words));
    Some(if has(&[".location failed"]) {
        "the file that this setting names can't be read, or isn't in PEM form"
    } else if has(&["certificate verify failed", "self-signed certificate"]) {
        "the broker's certificate isn't signed by what \"ssl.ca.location\" in [kafka.client] names: name the file of the authority that signed it"
    } else if has(&[
        "certificate required",
        "bad certificate",
        "alert handshake failure",
        "peer did not return a certificate",
    ]) {
        "the broker wants a client certificate that it knows: name it and its key in \"ssl.certificate.location\" and \"ssl.key.location\" in [kafka.client]"
    } else if has(&[
        "uthentication failed",
        "uthentication failure",
        "nvalid credentials",
    ]) {
        "the broker doesn't take this user: look at \"sasl.username\" and \"sasl.mechanism\" in [kafka.client], and at the password in password_file"
    } else if has(&[
        "unsupported SASL mechanism",
        "UnsupportedSaslMechanism",
        "Unsupported SASL",
    ]) {
        "the broker doesn't have this way to say who one is: look at \"sasl.mechanism\" in [kafka.client]"
    } else if has(&["TopicAuthorizationFailed", "Topic authorization failed"]) {
        "this user may not use the topic: it takes the rights to describe, read and write it, and to create it unless it is there"
    } else if has(&["GroupAuthorizationFailed", "Group authorization failed"]) {
        "this user may not use the consumer group: it takes the right to read it"
    } else if has(&["ClusterAuthorizationFailed", "Cluster authorization failed"]) {
        "this user may not use the cluster so: idempotent writing takes the right IdempotentWrite on brokers before 3.0, and making topics the right to create"
    } else if has(&[
        "Disconnected",
        "SSL_HANDSHAKE",
        "wrong version number",
        "unexpected eof",
    ]) {
        "one side speaks TLS or SASL and the other doesn't, or the port is another's: look at \"security.protocol\" in [kafka.client]"
    } else if has(&["brokers are down"]) {
        "something answers there and breaks the connection again, or nothing does: look at \"security.protocol\" in [kafka.client], as one side may speak TLS and the other not, and see that brokers run there"
    } else if has(&["Failed to resolve"]) {
        "the name isn't known here: look at `routes`, and at what the brokers advertise as their address"
    } else if has(&[
        "Connection refused",
        "timed out",
        "Timed out",
        "No route to host",
        "TransportFailure",
    ]) {
        "see that brokers run there and may be reached from here, and that the address they advertise may be too"
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_advice() {
        for (reason, words) in [
            (
                "ssl://b:9092/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified",
                "ssl.ca.location",
            ),
            (
                "ssl.ca.location failed: error:05880002:x509",
                "can't be read",
            ),
            (
                "ssl handshake failed: tlsv13 alert certificate required",
                "ssl.key.location",
            ),
            (
                "SASL authentication error: Authentication failed",
                "password_file",
            ),
            (
                "Broker: Topic authorization failed",
                "describe, read and write",
            ),
            (
                "Failed to resolve 'kafka-a:9092': Name or service not known",
                "routes",
            ),
            (
                "Connect to ipv4#127.0.0.1:9 failed: Connection refused",
                "brokers run",
            ),
            (
                "Disconnected while requesting ApiVersion: might be caused by",
                "security.protocol",
            ),
        ] {
            let advice = advice(reason).expect("something to do");
            assert!(advice.contains(words), "{reason}: {advice}");
        }
        assert_eq!(advice("something new"), None);
    }
}
