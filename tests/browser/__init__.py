"""A person in a browser, against the real demo."""
