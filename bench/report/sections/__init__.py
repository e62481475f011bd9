"""Sections of the report: each turns facts into answers, a table and figures."""
