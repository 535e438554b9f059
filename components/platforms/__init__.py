"""The services that steps talk to: a client, a polling loop, a retry policy and a map of its errors."""
