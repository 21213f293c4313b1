"""The page's tabs: widgets and what they are bound to, one file a tab."""
