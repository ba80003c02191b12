"""The serial number that a visitor has typed, until they have an account."""

# The session keeps its primary key, so it outlives sign-up and sign-in, and no code lies readable in the session table.
KEPT = "serial"
