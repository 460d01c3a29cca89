"""What scores a response, and how units are made equal."""
