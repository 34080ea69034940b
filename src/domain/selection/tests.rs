use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn choice(run: usize, step: i64, loss: Option<f64>, tagged: bool) -> Choice {
    Choice {
        checkpoint_id: CheckpointId(Uuid::from_u128((run as u128) << 64 | step as u128)),
        run,
        step,
        metrics: loss.map(|loss| ("loss".to_owned(), loss)).into_iter().collect(),
        tags: if tagged { vec!["warm".into()] } else { Vec::new() },
    }
}

fn histories() -> impl Strategy<Value = Vec<Choice>> {
    // Few values, so that equals are common.
    let one = (0..3_usize, 0..60_i64, prop::option::of(-3..3_i32), any::<bool>());
    prop::collection::vec(one, 0..40).prop_map(|all| {
        let unique: BTreeMap<_, _> =
            all.into_iter().map(|(run, step, loss, warm)| ((run, step), (loss, warm))).collect();
        unique.into_iter().map(|((run, step), (loss, warm))| choice(run, step, loss.map(f64::from), warm)).collect()
    })
}

fn among() -> impl Strategy<Value = Among> {
    let range = (prop::option::of(0..30_i64), prop::option::of(20..60_i64));
    (range, prop::option::of(1..4_u32), any::<bool>()).prop_map(|((from, to), every, warm)| Among {
        from,
        to,
        every,
        tags: if warm { vec!["warm".into()] } else { Vec::new() },
        ..Among::default()
    })
}

fn rules() -> impl Strategy<Value = Rule> {
    let direction = prop_oneof![Just(Direction::Min), Just(Direction::Max)];
    prop_oneof![
        (2..6_u32, among()).prop_map(|(count, among)| Rule::Last { count, among }),
        (2..6_u32, direction, among()).prop_map(|(count, direction, among)| Rule::Best {
            count,
            metric: "loss".into(),
            direction,
            among
        }),
        (0..30_i64, prop::option::of(20..60_i64), 1..4_u32, among()).prop_map(|(from, to, every, among)| Rule::Steps {
            from,
            to,
            every,
            among
        }),
    ]
}

fn pools() -> impl Strategy<Value = Pool> {
    (histories(), any::<[bool; 40]>(), any::<bool>()).prop_map(|(choices, out, bounded)| Pool {
        excluded: choices.iter().zip(out).filter(|(_, out)| *out).map(|(choice, _)| choice.checkpoint_id).collect(),
        bounds: if bounded { Bound::parse_list("loss<2").unwrap() } else { Vec::new() },
        choices,
    })
}

proptest! {
    #[test]
    fn every_member_is_admitted_once_and_in_order(rule in rules(), pool in pools()) {
        let Ok(members) = choose(&rule, pool.clone()) else { return Ok(()) };
        let find = |id: &CheckpointId| pool.choices.iter().find(|choice| choice.checkpoint_id == *id).unwrap();
        let chosen: Vec<&Choice> = members.iter().map(find).collect();
        prop_assert!(chosen.windows(2).all(|pair| pair[0].place() < pair[1].place()));
        prop_assert!((MIN_MEMBERS..=MAX_MEMBERS).contains(&members.len()));
        let (from, to) = rule.steps();
        let tags = &rule.among().unwrap().tags;
        for choice in chosen {
            prop_assert!((from..=to).contains(&choice.step));
            prop_assert!(tags.iter().all(|tag| choice.tags.contains(tag)));
            prop_assert!(!pool.excluded.contains(&choice.checkpoint_id));
            prop_assert!(pool.bounds.iter().all(|bound| bound.admits(choice.metrics["loss"])));
        }
    }

    #[test]
    fn the_order_in_which_checkpoints_are_read_is_irrelevant(rule in rules(), pool in pools()) {
        let mut turned = pool.clone();
        turned.choices.reverse();
        prop_assert_eq!(choose(&rule, pool), choose(&rule, turned));
    }

    #[test]
    fn no_checkpoint_left_out_is_better_than_a_best_one(pool in pools(), count in 2..6_u32, least in any::<bool>()) {
        let direction = if least { Direction::Min } else { Direction::Max };
        let rule = Rule::Best { count, metric: "loss".into(), direction, among: Among::default() };
        let Ok(members) = choose(&rule, pool.clone()) else { return Ok(()) };
        prop_assert_eq!(members.len(), count as usize);
        let (chosen, left): (Vec<_>, Vec<_>) = admitted(&rule, pool).into_iter()
            .filter(|choice| choice.metrics.contains_key("loss"))
            .partition(|choice| members.contains(&choice.checkpoint_id));
        for (chosen, left) in chosen.iter().flat_map(|chosen| left.iter().map(move |left| (chosen, left))) {
            let (chosen_loss, left_loss) = (chosen.metrics["loss"], left.metrics["loss"]);
            let better = if least { chosen_loss < left_loss } else { chosen_loss > left_loss };
            prop_assert!(better || chosen_loss.to_bits() == left_loss.to_bits() && chosen.place() > left.place());
        }
    }

    #[test]
    fn no_checkpoint_left_out_is_later_than_a_last_one(pool in pools(), count in 2..6_u32) {
        let rule = Rule::Last { count, among: Among::default() };
        let Ok(members) = choose(&rule, pool.clone()) else { return Ok(()) };
        prop_assert_eq!(members.len(), count as usize);
        let (chosen, left): (Vec<_>, Vec<_>) =
            admitted(&rule, pool).into_iter().partition(|choice| members.contains(&choice.checkpoint_id));
        let earliest = chosen.iter().map(Choice::place).min().unwrap();
        prop_assert!(left.iter().all(|choice| choice.place() < earliest));
    }

    #[test]
    fn thinning_by_one_changes_nothing_and_by_more_keeps_every_nth(choices in histories(), every in 1..5_u32) {
        let mut sorted = choices;
        sorted.sort_by_key(Choice::place);
        prop_assert_eq!(thinned(sorted.clone(), 1), sorted.clone());
        let kept = thinned(sorted.clone(), every);
        prop_assert_eq!(kept.len(), sorted.len().div_ceil(every as usize));
        for (index, choice) in kept.iter().enumerate() {
            prop_assert_eq!(choice, &sorted[index * every as usize]);
        }
    }
}

#[test]
fn a_metric_that_is_not_finite_does_not_qualify() {
    let choices = vec![choice(0, 1, Some(f64::NAN), false), choice(0, 2, Some(0.5), false), choice(0, 3, None, false)];
    let rule = Rule::Best { count: 2, metric: "loss".into(), direction: Direction::Min, among: Among::default() };
    let error = choose(&rule, Pool { choices, ..Pool::default() }).unwrap_err();
    assert!(error.contains("1 such checkpoints report the metric `loss`"), "{error}");
    assert!(error.contains("steps 1, 3"), "{error}");
}

#[test]
fn the_error_names_what_is_reported_instead() {
    let mut choices = vec![choice(0, 1, Some(0.5), false), choice(0, 2, Some(0.4), false)];
    choices[0].metrics.insert("acc".into(), 0.9);
    let rule = Rule::Best { count: 2, metric: "los".into(), direction: Direction::Min, among: Among::default() };
    let error = choose(&rule, Pool { choices, ..Pool::default() }).unwrap_err();
    assert!(error.ends_with("2 lack it (steps 1, 2) and report `acc`, `loss`"), "{error}");
}
