"""Attention among the leads: implementations and one dispatcher."""
