"""Turn finished runs into numbers, tables, figures and one report page."""
