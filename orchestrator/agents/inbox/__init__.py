"""Mailbox with an HTTP API: keeps every message untouched, and finds it again."""
