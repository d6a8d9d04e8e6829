"""States what a method may choose, as data: dtypes, rules, parameters."""
