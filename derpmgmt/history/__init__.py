"""What happened to a customer, from every room."""
