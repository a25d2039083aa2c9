"""Reports of one run or many, on the terminal and as HTML."""
