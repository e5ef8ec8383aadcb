"""The loop that draws cases, runs them and keeps what fails."""
