"""Parts of MBPO: mining, and the policy on both kinds of backbone."""
