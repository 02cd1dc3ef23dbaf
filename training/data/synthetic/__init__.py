"""Rendered people: parametric bodies in motion-capture poses, dressed, lit and filmed, with exact labels."""
