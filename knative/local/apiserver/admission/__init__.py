"""Admission: defaults, denials and warnings before an object is stored."""
