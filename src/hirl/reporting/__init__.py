"""From finished runs to numbers, tables, pictures and one page that holds them all."""
