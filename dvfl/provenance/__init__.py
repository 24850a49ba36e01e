"""Where numbers come from: a table's row traced to its runs, results verified, and packed for publication."""
