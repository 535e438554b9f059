"""The services that steps call: clients, polling, retries and error translation."""
